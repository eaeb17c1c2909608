"""Only the read-out learns, on features that stay as they were drawn."""

from torch.nn.functional import cross_entropy

from bpfree import Algorithm, Arm, Range


class Reservoir(Algorithm):
    def __init__(self, model, **common):
        super().__init__(model, **common)
        self.heads["output"] = self.head(len(model.blocks))

    def stages(self):
        head, depth = self.heads["output"], len(self.model.blocks)
        return [self.stage("read-out", head.parameters(), self.losses, head, self.model.blocks, layer=depth)]

    def losses(self, a, labels, chance):
        yield cross_entropy(self.heads["output"](a), labels)


reservoir = Arm("reservoir", Reservoir, label="Reservoir", space={"lr": Range(1e-3, 1e-1, "log")})

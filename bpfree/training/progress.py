"""Two bars: one over the stages, one over the batches of the stage at hand, with loss, accuracy and ETA."""

from tqdm import tqdm


def shown(progress: bool) -> dict:
    """What tqdm is told where a bar is to be shown, unless the variable TQDM_DISABLE=1 forbids it, or not."""
    # `disable` is passed only to silence: passing False would override TQDM_DISABLE.
    return {} if progress else {"disable": True}


class Progress:
    """Bars of one training run. The variable TQDM_DISABLE=1 silences them, and so does `enabled=False`."""

    def __init__(self, algorithm: str, stages: int, *, enabled: bool = True):
        self._off = shown(enabled)
        self._algorithm, self._stages = algorithm, stages
        self._outer = self._inner = None
        if stages > 1:  # leave=None: not below another bar
            self._outer = tqdm(total=stages, desc=algorithm, unit="stage", leave=None, **self._off)
        self._name = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        for bar in (self._inner, self._outer):
            if bar is not None:
                bar.close()

    def stage(self, name: str, note: str = "") -> None:
        """Begins the next stage; `note` is for the user, such as that its prefix is recomputed."""
        self._name = (name if self._stages > 1 else self._algorithm) + (f" ({note})" if note else "")

    def batch(self, epoch: int, cap: int, batches: int) -> None:
        if self._inner is None:
            done = (epoch - 1) * batches  # before a resumption
            self._inner = tqdm(total=cap * batches, initial=done, unit="batch", leave=False, **self._off)
        self._inner.total = cap * batches  # foreseen anew after every epoch, where a budget is spent
        self._inner.update()
        if self._inner.n % batches == 1 or batches == 1:
            self._inner.set_description(f"{self._name}, epoch {epoch}/{cap}", refresh=False)

    def epoch(self, row: dict) -> None:
        text = f"loss {row['train_loss']:.3f}"
        if "val_loss" in row:
            text += f", validation {row['val_loss']:.3f} {row['val_accuracy']:.1f} %"
        self._inner.set_postfix_str(text)

    def stage_done(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None
        if self._outer is not None:
            self._outer.update()

"""A stage ends at 90 % on the validation images."""


class Ninety:
    def stop(self, rows):
        return rows[-1]["val_accuracy"] >= 90.0

    def best(self, rows):
        return len(rows)


ninety = Ninety()

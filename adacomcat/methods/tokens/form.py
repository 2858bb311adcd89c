"""What a token method has to know of a model, beside its modules."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenForm:
    """Where the tokens of a model run, and which of them are special.

    Attributes:
        container: name of the module that holds the blocks, one after the other (`blocks`, or
            `stages.2.blocks` of CAFormer).
        depth: blocks in it.
        patches: tokens that enter the first block, beside the prefix tokens.
        prefix: tokens in front that are never dropped, merged or merged into.
        scoring: of these, the first so many whose attention says how important a patch is (class
            token, distillation token); 0: the attention of all tokens.
        pooled: whether the head averages over patches, which it then does by their sizes.
        merges_only: nothing is pruned, sizes are plain sums and the most important token takes in
            no other, as published for CAFormer; what was merged is put back after the last block.
    """

    container: str
    depth: int
    patches: int
    prefix: int
    scoring: int
    pooled: bool
    merges_only: bool = False

    @property
    def tokens(self) -> int:
        """That enter the first block."""
        return self.prefix + self.patches

    def site(self, block: int, kind: str) -> str:
        """Name of a site; kind is `prune` or `merge`."""
        return f"{self.container}.{block}.{kind}"

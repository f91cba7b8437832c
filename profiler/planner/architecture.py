"""A model as the planner sees it: a transformer's shape, or what was counted of any other module.

Parameters are elements, sequence lengths are tokens, FLOPs count a multiply-add as two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from profiler.errors import ProfError


@dataclass(frozen=True, slots=True)
class Transformer:
    """The shape of a transformer; one kind of block, repeated."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    sequence: int  # tokens per sample, as trained
    ffn: int
    kv_heads: int
    head_dim: int
    gated: bool = False  # SwiGLU and the like: three matrices in the MLP
    tied: bool = True  # the output head shares the embedding
    learned_positions: bool = True
    biases: bool = True
    dropout: bool = True
    rms_norm: bool = False
    experts: int = 1
    active_experts: int = 1

    @property
    def attention_width(self) -> int:
        """Elements of one token's queries."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of one token's keys; as many values."""
        return self.kv_heads * self.head_dim

    @property
    def _mlp_parameters(self) -> int:
        matrices = 3 if self.gated else 2
        biases = (matrices - 1) * self.ffn + self.hidden if self.biases else 0
        return matrices * self.hidden * self.ffn + biases

    @property
    def expert_parameters_per_layer(self) -> int:
        """Parameters of one layer's experts, which expert parallelism spreads; 0 in a dense model."""
        return self._mlp_parameters * self.experts if self.experts > 1 else 0

    @property
    def layer_parameters(self) -> int:
        """Parameters of one block."""
        attention = self.hidden * (2 * self.attention_width + 2 * self.kv_width)
        if self.biases:
            attention += self.attention_width + 2 * self.kv_width + self.hidden
        norms = 2 * self.hidden * (1 if self.rms_norm or not self.biases else 2)
        router = self.hidden * self.experts if self.experts > 1 else 0
        return attention + self._mlp_parameters * self.experts + norms + router

    @property
    def embedding_parameters(self) -> int:
        """Token and position embeddings."""
        return self.hidden * (self.vocabulary + (self.sequence if self.learned_positions else 0))

    @property
    def head_parameters(self) -> int:
        """The final norm, and the output head where it is not tied."""
        norm = self.hidden * (1 if self.rms_norm or not self.biases else 2)
        return norm + (0 if self.tied else self.hidden * self.vocabulary)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layers * self.layer_parameters + self.embedding_parameters + self.head_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through: all but the experts it is not routed to."""
        idle = (self.experts - self.active_experts) * self._mlp_parameters
        return self.parameters - self.layers * idle

    def problems(self) -> list[str]:
        """What is impossible about this shape, each a clause."""
        names = ("layers", "hidden", "heads", "vocabulary", "sequence", "ffn", "kv_heads", "head_dim", "experts")
        found = [f"{name} must be at least 1" for name in names if getattr(self, name) < 1]
        if not found and self.heads % self.kv_heads:
            found.append(f"{self.kv_heads} key-value heads do not divide {self.heads} heads")
        if self.active_experts > self.experts:
            found.append(f"{self.active_experts} active experts of only {self.experts}")
        return found


def transformer(
    *,
    layers: int,
    hidden: int,
    heads: int,
    vocabulary: int,
    sequence: int,
    ffn: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    gated: bool = False,
    tied: bool = True,
    learned_positions: bool = True,
    biases: bool = True,
    dropout: bool = True,
    rms_norm: bool = False,
    experts: int = 1,
    active_experts: int = 1,
) -> Transformer:
    """A shape with the usual defaults: an MLP of 4 times the width, as many key-value heads as heads.

    Raises ProfError for a shape that can't exist.
    """
    if head_dim is None and (heads < 1 or hidden % heads):
        raise ProfError(f"a hidden size of {hidden} does not divide into {heads} heads: pass the head size too.")
    shape = Transformer(
        layers=layers,
        hidden=hidden,
        heads=heads,
        vocabulary=vocabulary,
        sequence=sequence,
        ffn=ffn or 4 * hidden,
        kv_heads=kv_heads or heads,
        head_dim=head_dim or hidden // heads,
        gated=gated,
        tied=tied,
        learned_positions=learned_positions,
        biases=biases,
        dropout=dropout,
        rms_norm=rms_norm,
        experts=experts,
        active_experts=active_experts,
    )
    if problems := shape.problems():
        raise ProfError(f"this transformer can't exist: {'; '.join(problems)}.")
    return shape


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of a module by running it on the meta device, linear in the samples of a batch.

    `activation_bytes(samples) = activation_fixed_bytes + activation_bytes_per_sample * samples`, in the number
    format in which the module was run; `low_precision_share` is what is left of it when it runs in 16 bit, and
    `low_precision_copies_bytes` what autocast's copies of the weights add then.
    """

    flops_per_sample: float  # forward only
    flops_fixed: float
    activation_bytes_per_sample: float
    activation_fixed_bytes: float
    low_precision_share: float = 0.5
    low_precision_copies_bytes: float = 0.0
    batch: int = 1  # samples in the batch that was seen
    calls: float = 0.0  # operators that the forward pass calls, whatever the batch
    largest_bytes_per_sample: float = 0.0  # the largest tensor among those kept, in the format that was run
    held_bytes_per_sample: float = 0.0  # outputs that the script's variables hold though backward does not need them
    ends_low: bool = False  # under autocast, its output is of 16-bit floats
    micro_batches: int = 1  # backward passes that were seen before the first optimizer step


@dataclass(frozen=True, slots=True)
class Model:
    """A model to plan for."""

    name: str
    source: str
    parameters: float  # for memory
    trainable_parameters: float
    flop_parameters: float | None  # that a token (or sample) passes through; None: FLOPs come from elsewhere
    unit: str = "token"  # what `tokens` and `--dataset-size` count: "token" or "sample"
    shape: Transformer | None = None
    counted: Counted | None = None
    forward_flops_per_sample: float | None = None  # published, for models that are not transformers
    buffers: float = 0.0  # elements that are not parameters (BatchNorm's statistics)
    largest_layer_parameters: float | None = None
    global_batch: int | None = None  # samples per step, as published or observed
    tokens: float | None = None  # trained on, as published
    optimizer: str | None = None  # that the user's script was seen to construct
    precision: str | None = None  # that it was seen to use
    notes: tuple[str, ...] = ()  # assumptions that came with the model

    @property
    def tokens_per_sample(self) -> float:
        """Tokens in one sample; 1 where samples are what is counted."""
        return float(self.shape.sequence) if self.shape and self.unit == "token" else 1.0

    def with_sequence(self, sequence: int) -> Model:
        """The same model trained at another sequence length."""
        if self.shape is None:
            raise ProfError(f"--seq-len means nothing for {self.name}: its architecture is not a known transformer.")
        shape = replace(self.shape, sequence=sequence)
        if shape.learned_positions and sequence > self.shape.sequence:
            added = shape.parameters - self.shape.parameters
            return replace(
                self,
                shape=shape,
                parameters=self.parameters + added,
                trainable_parameters=self.trainable_parameters + added,
            )
        return replace(self, shape=shape)


def transformer_model(
    name: str,
    shape: Transformer,
    source: str,
    *,
    parameters: float | None = None,
    flop_parameters: float | None = None,
    unit: str = "token",
    global_batch: int | None = None,
    tokens: float | None = None,
) -> Model:
    """A model from its shape; a published parameter count overrides the computed one."""
    active = flop_parameters or (shape.active_parameters if shape.experts > 1 else (parameters or shape.parameters))
    total = parameters or shape.parameters
    return Model(
        name=name,
        source=source,
        parameters=float(total),
        trainable_parameters=float(total),
        flop_parameters=float(active),
        unit=unit,
        shape=shape,
        global_batch=global_batch,
        tokens=tokens,
        largest_layer_parameters=float(max(shape.layer_parameters, shape.embedding_parameters)),
    )


def with_lora(model: Model, rank: int, targets: str = "all") -> Model:
    """The model frozen, with low-rank adapters of that rank on its linear layers ("all" or "attention")."""
    shape = model.shape
    if shape is None:
        raise ProfError(f"--lora-rank needs a transformer whose shape is known, and {model.name} is none.")
    if not 1 <= rank <= shape.hidden:
        raise ProfError(f"a LoRA rank of {rank} is absurd for a hidden size of {shape.hidden}: try 8 to 64.")
    h, a, kv = shape.hidden, shape.attention_width, shape.kv_width
    per_layer = rank * ((h + a) + 2 * (h + kv) + (a + h))
    if targets == "all":
        per_layer += rank * (3 if shape.gated else 2) * (h + shape.ffn) * shape.experts
    adapters = float(per_layer * shape.layers)
    return replace(
        model,
        name=f"{model.name} + LoRA r={rank}",
        parameters=model.parameters + adapters,
        trainable_parameters=adapters,
        notes=(
            *model.notes,
            f"LoRA of rank {rank} on {'all linear layers' if targets == 'all' else 'attention'}: "
            f"{adapters:,.0f} trainable parameters; the rest is frozen, without gradients or optimizer states",
        ),
    )

"""The words of the raw record.

An event is 16 bytes, two little-endian unsigned 64-bit words: a *code* and a *value*.

    code  = kind (8 bits) | name (16 bits) << 8 | argument (40 bits) << 24
    value = `time.perf_counter_ns()` for PUSH, POP, MARK, PAUSE and SAMPLE, a plain number for VALUE

PUSH opens an interval on the thread's stack, POP closes it. The name says of what: a stage of the step, a
span of the run, or a part of a worker's batch. The argument says more:

    argument = detail (8 bits) | object (16 bits) << 8 | flags (16 bits) << 24

*detail* is a word of that stage's own list (`DataWait`, `Forward`, `Optimizer`, …); *object* numbers the loader,
root module or optimizer within its process (a note says which is which); *flags* are the bits of `Flag`.

Standard library only: this module is imported into the user's training process.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

SCHEMA_VERSION = 1  # of summary.json and of the raw record


class Kind(IntEnum):
    """What an event is. 0 is an empty slot of the tape."""

    PUSH = 1
    POP = 2
    MARK = 3
    VALUE = 4  # the value word is a number; it belongs to the last timed event before it on the same tape
    SAMPLE = 5  # the sampler saw the training thread; the argument numbers the site
    PAUSE = 6  # a pause that ended now; the argument is its length in ns (40 bits: up to 18 minutes)


class Name(IntEnum):
    """What an interval, a mark or a value is about."""

    # stages of a step
    DATA_WAIT = 1
    HOST_TO_DEVICE = 2
    FORWARD = 3
    BACKWARD = 4
    OPTIMIZER = 5
    COMMUNICATION = 6
    USER_STAGE = 7  # `profiler.stage("…")` with a name of the user's; object = number of the name
    # spans of the run
    EVALUATION = 16
    CHECKPOINT = 17
    COMPILE = 18
    STARTUP = 19
    INSTRUMENT = 20  # our own cost: the deep window, the memory step
    # marks
    STEP = 32  # `profiler.step()`: the user says that a step ends here
    ATTACHED = 33  # hooks are in place
    ENDED = 34  # the process ended in an orderly way (absent after SIGKILL)
    DISABLED = 35  # an error of ours switched the recording off here
    RESOURCES = 36  # on the sampler's tape; the VALUEs after it are readings of that moment
    DEVICE_EVENT = 37  # on the device's tape: the host's time of a boundary; the DEVICE_NS after it is the device's
    # pauses
    GARBAGE_COLLECTION = 48
    # a worker's batch
    FETCH = 64  # load + preprocess of all items of the batch
    COLLATE = 65
    # values
    CPU_NS = 80  # CPU time of the thread since the PUSH before it
    RUN_DELAY_NS = 81  # time the thread was runnable but had no core
    READ_BYTES = 82  # bytes fetched from storage (not from the page cache)
    READ_CHARS = 83  # bytes read through read(2), cached or not
    ITEMS = 84  # items in the batch
    RSS_BYTES = 85
    DEVICE_ALLOCATED_BYTES = 86
    DEVICE_RESERVED_BYTES = 87
    DEVICE_PEAK_BYTES = 88
    BLOCK_INPUTS = 89  # ru_inblock
    PROCESS_CPU_NS = 90  # of the training process, all threads, since it began
    SYSTEM_IDLE_NS = 91  # summed over cores, since boot
    SYSTEM_IOWAIT_NS = 92
    WORKERS_RSS_BYTES = 93  # summed over the process's children
    READ_CALLS = 95  # calls of read(2)
    CONTAINER_CPU_NS = 94  # used by the process's cgroup, where that has a quota
    GPU_UTILIZATION_PERCENT = 96  # NVML readings
    GPU_MEMORY_USED_BYTES = 97
    GPU_POWER_MILLIWATTS = 98
    GPU_SM_CLOCK_MHZ = 99
    GPU_THROTTLE_REASONS = 100  # bit mask of NVML's clocks event reasons
    GPU_TEMPERATURE_C = 101
    DEVICE_NS = 102  # on the device's clock, since the first boundary of the window
    DEVICE_ALLOC_RETRIES = 103  # times that torch's allocator gave its blocks back and asked the device again
    DEVICE_INACTIVE_BYTES = 104  # of blocks that were split and whose rest lies free between parts in use
    TRAINING_RUN_DELAY_NS = 106  # the training thread was ready to run and had no core, since it began
    PYTHON_BLOCKS = 105  # blocks that Python's own allocator has given out: objects and parts of them


class DataWait(IntEnum):
    """Details of `data_wait`."""

    NEXT = 1
    ITER = 2  # DataLoader.__iter__: starts the workers


class Forward(IntEnum):
    """Details of `forward`."""

    MODULE = 1
    LOSS = 2  # a root module that is a loss


class Optimizer(IntEnum):
    """Details of `optimizer`."""

    STEP = 1
    ZERO_GRAD = 2
    CLIP = 3
    SCALER = 4
    SCHEDULER = 5


class Communication(IntEnum):
    """Details of `communication`; the object numbers the process group."""

    ALL_REDUCE = 1
    ALL_GATHER = 2
    REDUCE_SCATTER = 3
    ALL_TO_ALL = 4
    BARRIER = 5
    GRADIENTS = 6  # DistributedDataParallel's own reduction, from the end of the graph to the end of backward
    OBJECTS = 7  # all_gather_object
    BROADCAST = 16
    REDUCE = 17
    GATHER = 18
    SCATTER = 19
    SEND = 20
    RECEIVE = 21
    BUFFERS = 22  # DistributedDataParallel's broadcast of buffers
    WAIT = 23  # for work that was issued where we do not look


class Checkpoint(IntEnum):
    """Details of `checkpoint`."""

    SAVE = 1
    LOAD = 2


class Instrument(IntEnum):
    """Details of `instrument`, our own labelled cost."""

    MEMORY_STEP = 1
    DEEP_WINDOW = 2
    DENORMALS = 3  # a look at what the optimizers hold
    KEPT_GRAPHS = 4  # a look at what keeps the graphs of past steps


class DeviceEvent(IntEnum):
    """Details of `DEVICE_EVENT`: where a window of boundaries begins and ends."""

    FIRST = 1
    LAST = 2


class Flag(IntFlag):
    """Bits that an event carries."""

    TRAINING = 1  # root.training
    GRAD = 2  # torch.is_grad_enabled()
    EXHAUSTED = 4  # on POP of data_wait: StopIteration
    RAISED = 8  # on POP: the call ended by an exception
    WORKERS = 16  # on PUSH of data_wait: this loader has worker processes


STAGES: dict[int, str] = {
    Name.DATA_WAIT: "data_wait",
    Name.HOST_TO_DEVICE: "host_to_device",
    Name.FORWARD: "forward",
    Name.BACKWARD: "backward",
    Name.OPTIMIZER: "optimizer",
    Name.COMMUNICATION: "communication",
}
COLLECTIVES: dict[int, str] = {
    Communication.GRADIENTS: "gradients (DDP)",
    Communication.BUFFERS: "buffers (DDP)",
    **{kind: kind.name.lower() for kind in Communication if kind.name not in ("GRADIENTS", "BUFFERS")},
}
TOGETHER = int(Communication.OBJECTS)  # up to here no rank is done before the last one has come
ENDING_TOGETHER = frozenset(name for kind, name in COLLECTIVES.items() if kind <= TOGETHER)
STAGE_ORDER: tuple[str, ...] = (*STAGES.values(), "other")
SPANS: dict[int, str] = {
    Name.STARTUP: "startup",
    Name.COMPILE: "compile",
    Name.EVALUATION: "evaluation",
    Name.CHECKPOINT: "checkpoint",
    Name.INSTRUMENT: "instrument",
}

# NVML's reasons that mean a device too hot or short of power: slowdown by hardware, by heat (two), by a power brake
GPU_SLOWDOWN = 0x08 | 0x20 | 0x40 | 0x80

TAPE_MAGIC = b"TPTAPE01"
HEADER_BYTES = 64
EVENT_BYTES = 16
SEGMENT_BYTES = 1 << 20


def code(kind: int, name: int, detail: int = 0, obj: int = 0, flags: int = 0) -> int:
    """The code word of an event."""
    return kind | name << 8 | (detail | (obj & 0xFFFF) << 8 | flags << 24) << 24


def pause_code(name: int, length_ns: int) -> int:
    """The code word of a PAUSE: its argument is the length."""
    return Kind.PAUSE | name << 8 | min(length_ns, (1 << 40) - 1) << 24


def sample_code(site: int) -> int:
    """The code word of a SAMPLE: its argument numbers the site (a `site` note says where it is)."""
    return Kind.SAMPLE | (site & 0xFFFFFFFF) << 24

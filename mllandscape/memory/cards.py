"""What a GPU really holds: the total that CUDA reports for a card, which is what an out-of-memory message calls its capacity."""

from dataclasses import dataclass

from mllandscape import BadInput, told, units


@dataclass(frozen=True)
class Card:
    """A GPU and its usable memory in bytes, as CUDA reports it (GiB is 2^30 bytes); ``source`` says where that number was seen."""

    name: str
    capacity: int
    source: str

    def __str__(self) -> str:
        return f"{self.name} ({self.capacity / units.GIB:.2f} GiB = {self.capacity / units.GB:.2f} GB usable)"


def _card(name: str, gib: float, source: str) -> Card:
    return Card(name, round(gib * units.GIB), source)


# Drivers and ECC change the last per mille, so of several reported totals the smallest one that names its card is taken.
CARDS = {
    card.name: card
    for card in (
        _card("RTX-3070", 7.78, "out-of-memory message in akshitac8/OW-DETR#46"),
        _card("RTX-3080", 9.78, "out-of-memory message in zai-org/CogVideo#34"),
        _card("RTX-3060-12GB", 11.75, "out-of-memory message in Kunhao-Liu/StyleGaussian#12; TencentARC/PhotoMaker#47 shows 11.76"),
        _card("T4", 14.56, "out-of-memory message in Zheng-Chong/CatVTON#133; mbzuai-oryx/GeoPixel#5 shows 14.58"),
        _card("V100-16GB", 15.77, "out-of-memory message in nomic-ai/gpt4all#544; kchengiva/Shift-GCN#34 shows 15.78"),
        _card("A10G", 21.99, "out-of-memory message in mistralai/mistral-finetune#69"),
        _card("RTX-4090", 23.61, "out-of-memory message in pinokiofactory/flux-webui#11; eosphoros-ai/DB-GPT-Hub#248 shows 23.64"),
        _card("RTX-3090", 23.69, "out-of-memory message in bigcode-project/starcoder#15; GaoLii/DSP#10 shows 23.70"),
        _card("RTX-5090", 31.36, "out-of-memory message in TrajectoryCrafter/TrajectoryCrafter#20; Wan-Video/Wan2.1#465 shows 31.37"),
        _card("V100-32GB", 31.74, "out-of-memory message in liucongg/ChatGLM-Finetuning#73"),
        Card("A100-40GB", 42_405_855_232, "deviceQuery of an A100 40GB with NVLINK, documentation of the Paderborn Center for Parallel Computing"),
        _card("L40", 44.40, "out-of-memory message in QwenLM/Qwen3-VL#2097"),
        _card("H100-80GB", 79.11, "out-of-memory message in vllm-project/vllm#27508"),
        _card("A100-80GB", 79.15, "out-of-memory message in vllm-project/vllm#4408; wbfwonderful/Vad-R1#11 shows 79.25"),
        _card("H200", 139.81, "out-of-memory message in vllm-project/vllm#34553"),
    )
}

SIZES = {"8GB": "RTX-3070", "10GB": "RTX-3080", "12GB": "RTX-3060-12GB", "16GB": "T4", "24GB": "RTX-4090", "32GB": "RTX-5090"}
SIZES |= {"40GB": "A100-40GB", "48GB": "L40", "80GB": "A100-80GB", "141GB": "H200"}
"""What the number on a box stands for: a common card sold with it. "80 GB" is neither 80·10^9 bytes nor 80·2^30: an A100 shows 79.15 GiB."""


def _key(name: str) -> str:
    return name.casefold().translate({ord(separator): None for separator in " -_"})


def find(card: str) -> Card | None:
    """The card of that name, or the one that the number on its box (``"80GB"``) stands for; None for anything else."""
    names = {_key(name): name for name in CARDS} | {_key(size): name for size, name in SIZES.items()}
    return CARDS.get(names.get(_key(card), ""))


def capacity(card: str | int) -> int:
    """Usable bytes of a named card (``"A100-80GB"``), of the card that a size on a box stands for (``"80GB"``), or the bytes given.

    Any other size means what it says: ``"79.15GiB"``, ``"78GB"`` (78·10^9), an int. Capitals, spaces and dashes do not matter
    in a name. Raises BadInput otherwise.
    """
    if isinstance(card, str) and (found := find(card)):
        return found.capacity
    try:
        size = units.parse_bytes(card)
    except (ValueError, OverflowError):
        size = 0
    if not 0 < size <= units.TB * 1000:
        likely = [name for name in CARDS if isinstance(card, str) and _key(card) and _key(name).startswith(_key(card))]
        meant = f"did you mean {' or '.join(likely)}? " if likely else ""
        sizes = "a size with its unit such as 80GB, 79.15GiB or 8589934592B, up to 1,000 TB"
        raise BadInput(f"{told(card)} is no card known here; {meant}possible: {', '.join(CARDS)}, {sizes}.")
    return size


def label(card: str | int) -> str:
    """A card in words, saying what a size on a box was taken for: ``80GB, taken as A100-80GB (79.15 GiB = 84.99 GB usable)``."""
    found = find(card) if isinstance(card, str) else None
    if found is None:
        size = capacity(card)
        return f"{size / units.GIB:.2f} GiB = {size / units.GB:.2f} GB"
    return str(found) if _key(card) == _key(found.name) else f"{card.strip()}, taken as {found}"

"""Data sets by name."""

from collections.abc import Callable, Mapping

from adacomcat.checks import require
from adacomcat.config import DataConfig
from adacomcat.data import builtin
from adacomcat.data.folders import image_folder
from adacomcat.data.source import Source

FOLDERS = ("imagefolder", "timm/folder")
"""Data sets whose labels follow from the order of the names of folders."""
NAMES = ("digits", "fashion_mnist", "imagefolder", "synthetic", "timm/NAME")


def load_source(config: DataConfig) -> Source:
    """Open the data set that `config.name` names.

    Raises:
        ValueError: an unknown name or option, a folder that is missing or not laid out as it
            should be, an empty class, an empty or malformed file, or other classes than
            `data.label_names`; the message names it.
    """
    builders: Mapping[str, Callable[[DataConfig], Source]] = {
        "digits": builtin.digits,
        "fashion_mnist": builtin.fashion_mnist,
        "imagefolder": image_folder,
        "synthetic": builtin.synthetic,
    }
    if config.name.startswith("timm/"):
        # Imported late: timm.data takes long to import, and most studies do not need it.
        from adacomcat.data.external import timm_source

        source = timm_source(config, config.name.removeprefix("timm/"))
    else:
        require(config.name in builders, "data.name", config.name, ", ".join(NAMES))
        source = builders[config.name](config)
    require(
        config.name in FOLDERS or config.class_order == "natural",
        "data.class_order",
        config.class_order,
        f"natural for {config.name}, which numbers its classes itself",
    )
    if config.label_names is None:
        return source
    return source.relabeled(config.label_names, "data.label_names")

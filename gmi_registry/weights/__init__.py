"""What a file of weights is, told from its header alone; no tensor is read, no code is run."""

from gmi_registry.weights.architectures import (
    VIDEO,
    Architecture,
    architecture_title,
    may_be,
)
from gmi_registry.weights.header import (
    HEADER_LIMIT,
    Header,
    Tensor,
    WeightsFormatError,
    header_from_bytes,
    header_length,
    read_config,
    read_header,
)
from gmi_registry.weights.identify import (
    DESCRIBED,
    FileKind,
    WeightsFile,
    identify,
    identify_file,
    require_described,
)

__all__ = [
    "DESCRIBED",
    "HEADER_LIMIT",
    "VIDEO",
    "Architecture",
    "FileKind",
    "Header",
    "Tensor",
    "WeightsFile",
    "WeightsFormatError",
    "architecture_title",
    "header_from_bytes",
    "header_length",
    "identify",
    "identify_file",
    "may_be",
    "read_config",
    "read_header",
    "require_described",
]

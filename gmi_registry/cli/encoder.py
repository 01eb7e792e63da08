"""``gmi encoder``: encoders as files that need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.cli.options import (
    AsJson,
    CacheDir,
    Offline,
    Verbose,
    command,
    new_app,
    show_log,
)
from gmi_registry.cli.output import (
    write_json,
    write_line,
    write_message,
    write_pairs,
)

if TYPE_CHECKING:
    from gmi_registry.encoders.description import Description


app = new_app("Export encoders, so that searches need no torch, or check an export.")


@command(app)
def export(
    name: Annotated[
        str, typer.Argument(metavar="NAME/PRETRAINED", help="The encoder, by its open_clip name.")
    ],
    hub: Annotated[
        Path | None,
        typer.Option(
            "--hub",
            metavar="DIR",
            help="A folder of models that has the encoder; default: open_clip's own.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Where to write it; default: where searches on this machine find it.",
        ),
    ] = None,
    half: Annotated[
        bool,
        typer.Option("--half", help="Store weights in 2 bytes, if the results stay the same."),
    ] = False,
    offline: Offline = False,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Export an encoder as ONNX files, which searches load quickly and without torch.

    Needs the extra gmi-registry[export]. In a folder of models, searches use an export that is in
    encoders/NAME/PRETRAINED/onnx, beside the encoder.
    """
    from gmi_registry.encoders import EncoderName
    from gmi_registry.encoders.onnx import kept_export, require_exporter

    show_log(verbose)
    wanted = EncoderName.parse(name)
    require_exporter()
    from gmi_registry.encoders.export import export_encoder
    from gmi_registry.encoders.open_clip import OpenClipEncoder

    weights = None if cache_dir is None else cache_dir / "hub"
    folder = None if hub is None else _carried(hub, wanted)
    if folder is None:
        encoder = OpenClipEncoder.from_pretrained(*wanted, weights, offline=offline)
    else:
        encoder = OpenClipEncoder.from_folder(folder, *wanted)
    target = output or kept_export(*wanted, encoder.ref.id, weights)
    write_message(f"exporting {wanted} to {target}")
    description = export_encoder(encoder, target, half=half)
    if as_json:
        write_json(_document(target, description))
    else:
        write_line(str(target))


@command(app)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with an export.")],
    as_json: AsJson = False,
) -> None:
    """Check an export: its digests, its parts, and that it gives the results of torch here."""
    from gmi_registry.encoders.onnx import OnnxEncoder
    from gmi_registry.encoders.onnx_files import OnnxFolder

    OnnxEncoder.from_folder(folder)
    description = OnnxFolder(folder).description
    if as_json:
        write_json(_document(folder, description))
        return
    ref = description.encoder
    write_pairs(
        [
            ("encoder", f"{ref.name}/{ref.pretrained}"),
            ("id", ref.id),
            ("weights", f"{ref.weights_sha256} (stored as {description.weights})"),
            ("size", f"{_size(description):,} bytes"),
        ]
    )


def _carried(hub: Path, wanted: tuple[str, str]) -> Path:
    from gmi_registry.errors import InputError
    from gmi_registry.hubs.local import LocalHub

    folder = LocalHub(hub).fetch_encoder(*wanted)
    if folder is None:
        raise InputError(
            f"{hub} has no encoder {'/'.join(wanted)}",
            hint="leave out --hub for open_clip's own",
        )
    return folder


def _document(folder: Path, description: Description) -> dict[str, object]:
    return {
        "folder": folder,
        "bytes": _size(description),
        "encoder_id": description.encoder.id,
        **description.model_dump(mode="json"),
    }


def _size(description: Description) -> int:
    return sum(entry.size for entry in description.files.values())

"""``python -m zoo.demo``: publish the zoo into a local hub, then search it with three pictures.

What it prints as ``$ gmi-...`` are the commands that a person would type; publishing runs them in
one process, which loads torch once and not once a model.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gmi_registry.hubs import open_hub
from gmi_registry.publish import PublishRequest, publish
from gmi_registry.spec import ModelRef
from zoo.build import HUB, MODELS, QUERIES

DEMO = Path("demo")


def publish_zoo(hub_folder: Path, work: Path, *, announce: bool = True) -> None:
    """Publish every model of the hub in ``hub_folder`` that is not up to date."""
    hub = open_hub(str(hub_folder))
    names = sorted(path.name for path in (hub_folder / "models").iterdir())
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        models = progress.add_task("models", total=len(names))
        images = progress.add_task("", total=None)
        for name in names:
            if announce:
                progress.console.print(f"$ gmi-publish {name} --hub {hub_folder}", highlight=False)
            progress.reset(images, description=name, total=None)

            def show(stage: str, done: int, total: int) -> None:
                if stage == "generate":
                    progress.update(images, completed=done, total=total)

            request = PublishRequest(ModelRef("local", name), work=work)
            done = publish(request, hub, progress=show)
            if announce:
                progress.console.print(
                    f"  {done.outcome}, {done.images} images in {done.seconds:.1f} s",
                    highlight=False,
                )
            progress.advance(models)


def search(hub_folder: Path, pictures: list[Path], *options: str) -> None:
    shown = [str(picture) for picture in pictures]
    command = ["gmi-search", *shown, "--hub", str(hub_folder), *options]
    print("\n$ " + " ".join(command), flush=True)
    program = shutil.which("gmi-search", path=str(Path(sys.executable).parent)) or "gmi-search"
    subprocess.run([program, *command[1:]], check=True)


def main() -> None:
    started = time.monotonic()
    hub_folder = DEMO / "hub"
    if not hub_folder.exists():
        shutil.copytree(HUB, hub_folder)
    count = len(list(MODELS.iterdir()))
    print(f"Publishing {count} models into the local hub {hub_folder}", flush=True)
    publish_zoo(hub_folder, DEMO / "work")
    report = DEMO / "report.html"
    queries = sorted(path.relative_to(Path.cwd()) for path in QUERIES.glob("*.png"))
    for picture in queries:
        search(hub_folder, [picture], "--top", "5")
    search(hub_folder, queries[:1], "--tag", "painting", "--top", "3")
    search(hub_folder, queries[:1], "--interrogator", "phrases", "--html", str(report), "-q")
    print(f"\nThe report: {report.resolve()}")
    print(f"Done in {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()

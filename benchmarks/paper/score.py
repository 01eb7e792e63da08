"""Stage ``score``: distances of every task to every model. No answer of a test task is read.

What is chosen by trying it out is fitted on the dev tasks and their answers alone. A hub does not
estimate its statistics anew whenever a model arrives. So the same is done with four models held
out: they are left out of what the default score pools over models and of the dev tasks that its
shrinkage is chosen on; then they join, and the test tasks are asked of all models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.definition import (
    HALVES,
    OWN_PROMPTS,
    PROTOCOLS,
    SINGLE,
    SPLITS,
    Benchmark,
    Split,
    gallery_of,
)
from benchmarks.paper.folder import (
    Progress,
    SpecFile,
    StageCache,
    Task,
    TaskFile,
    answer_path,
    array_bytes,
    damaged,
    document_bytes,
    load_arrays,
    read_answers,
    read_specs,
    read_tasks,
    sha256_file,
    task_path,
    versions,
)
from benchmarks.paper.methods import (
    METHODS,
    WITH_FIT,
    Array,
    Fit,
    Gallery,
    Queries,
    default_by,
    paper_by,
)
from gmi_registry.errors import InputError
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats, grams
from gmi_registry.scoring.scatter import WithinScatter
from gmi_registry.scoring.scores import PAPER_GAMMA, Candidates, mid_ranks, top_k_credit

# --- The arrays of a run, as the methods want them -----------------------------------------------


class RunArrays:
    """Galleries and queries of one results folder, float64, each read once."""

    def __init__(self, folder: Path, gamma: float) -> None:
        self.folder = folder
        self.gamma = gamma
        self.specs: SpecFile = read_specs(folder)
        self._galleries: dict[str, Gallery] = {}

    def gallery(self, protocol: str) -> Gallery:
        """The specifications that a protocol's tasks choose from."""
        key = gallery_of(protocol)
        if key not in self._galleries:
            self._galleries[key] = self._gallery(key)
        return self._galleries[key]

    def _gallery(self, key: str) -> Gallery:
        if key == "own-prompts":
            return self._separate(lambda number: True)
        if key == "own-prompts-mixed":
            return self._separate(lambda number: number % 2 == 0)
        if key in HALVES:
            return self._half(HALVES.index(key))
        return self._shared

    def queries(self, split: str, tasks: TaskFile) -> tuple[Queries, NDArray[np.intp]]:
        """The I different images of some tasks, and which k of them each of Q tasks has, [Q, k].

        Raises InputError for a task that the stages before have not seen.
        """
        arrays = load_arrays(self.folder / "embeddings" / f"{split}.npz")
        pseudo = load_arrays(self.folder / "pseudo" / f"{split}.npz")
        place = {str(name): row for row, name in enumerate(arrays["images"])}
        guessed = {str(name): row for row, name in enumerate(pseudo["images"])}
        texts = {str(text): row for row, text in enumerate(arrays["prompts"])}
        # Pairs: two prompts may have been answered by the same picture.
        asked = sorted({pair for task in tasks.tasks for pair in _pairs(task)})
        try:
            rows = [place[image] for image, _ in asked]
            guesses = [guessed[image] for image, _ in asked]
            prompts = [texts[prompt] for _, prompt in asked]
        except KeyError as error:
            raise InputError(
                f"{self.folder}: nothing is known of {error.args[0]!r}",
                hint="run the same python -m benchmarks.paper run again, without --stage",
            ) from None
        queries = Queries(
            arrays["image_embeddings"][rows].astype(float),
            arrays["prompt_embeddings"][prompts].astype(float),
            pseudo["prompt_embeddings"][guesses].astype(float),
            tuple(self.folder / image for image, _ in asked),
        )
        order = {pair: row for row, pair in enumerate(asked)}
        members = [[order[pair] for pair in _pairs(task)] for task in tasks.tasks]
        return queries, np.array(members, dtype=np.intp)

    @cached_property
    def _shared(self) -> Gallery:
        """All models on the default prompts."""
        arrays = load_arrays(self.folder / "embeddings" / "specs.npz")
        images = arrays["image_embeddings"].astype(float)
        member = Candidates(
            image_embeddings=images,
            prompt_embeddings=arrays["prompt_embeddings"].astype(float),
            image_prompt=arrays["image_prompt"],
            gamma=self.gamma,
            grams=grams(images, self.gamma),
            scatter=lambda: self._pooled,
            downloads=self._downloads,
        )
        return Gallery((member,), self._pictures(lambda number: False))

    def _half(self, number: int) -> Gallery:
        """All models on every other default prompt, from prompt ``number``."""
        whole = self._shared.members[0]
        rows = np.flatnonzero(whole.image_prompt % len(HALVES) == number)
        if not len(rows):
            raise InputError("one default prompt has no halves", hint="leave out split-2, split-3")
        images = whole.image_embeddings[:, rows]
        pooled = WithinScatter.of(images)
        member = replace(
            whole,
            image_embeddings=images,
            image_prompt=whole.image_prompt[rows],
            grams=None if whole.grams is None else whole.grams[:, rows][:, :, rows],
            scatter=lambda: pooled,
        )
        pictures = self._shared.pictures
        return Gallery((member,), tuple(tuple(each[row] for row in rows) for each in pictures))

    def _separate(self, has_own: Callable[[int], bool]) -> Gallery:
        """Each model on its own prompts, beside the default ones or without any.

        What is pooled over models is pooled over the default block, which all of them have.
        """
        shared = self._shared.members[0]
        own = load_arrays(self.folder / "embeddings" / "own.npz")
        prompts = len(shared.prompt_embeddings)
        members = []
        for number in range(len(shared)):
            images = shared.image_embeddings[number]
            texts, rows = shared.prompt_embeddings, shared.image_prompt
            if has_own(number):
                images = np.concatenate([images, own["image_embeddings"][number].astype(float)])
                texts = np.concatenate([texts, own["prompt_embeddings"][number].astype(float)])
                rows = np.concatenate([rows, own["image_prompt"] + prompts])
            member = Candidates(
                image_embeddings=images[None],
                prompt_embeddings=texts,
                image_prompt=rows,
                gamma=self.gamma,
                grams=grams(images[None], self.gamma),
                scatter=lambda: self._pooled,
                downloads=self._downloads[number : number + 1],
            )
            members.append(member)
        return Gallery(tuple(members), self._pictures(has_own))

    @cached_property
    def _pooled(self) -> WithinScatter:
        arrays = load_arrays(self.folder / "embeddings" / "specs.npz")
        return WithinScatter.of(arrays["image_embeddings"].astype(float))

    @property
    def _downloads(self) -> Array:
        counts = [model.downloads for model in self.specs.models]
        return np.array([np.nan if count is None else count for count in counts], float)

    def _pictures(self, has_own: Callable[[int], bool]) -> tuple[tuple[Path, ...], ...]:
        return tuple(
            tuple(
                self.folder / name
                for name in (*model.images, *(model.own_images if has_own(number) else ()))
            )
            for number, model in enumerate(self.specs.models)
        )


def _pairs(task: Task) -> list[tuple[str, str]]:
    """Image and prompt, once for each image of the task."""
    return list(zip(task.images, task.prompts, strict=True))


# --- What is fitted on dev tasks -----------------------------------------------------------------

GAMMAS = (0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.02, 0.03, 0.04, 0.05)
"""The values that the paper tries."""

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

UNFITTED = Fit(PAPER_GAMMA, SHRINKAGE)
"""What stands where nothing was fitted."""


def fit(
    folder: Path, run_arrays: RunArrays, protocol: str
) -> tuple[Fit, dict[str, dict[str, float]]]:
    """The best γ for Eq. 9 and shrinkage for the default score, on a protocol's dev tasks.

    Best is the largest top-1 accuracy, then the smallest mean rank, then the value tried first.
    Also returns the top-1 accuracy of every value. To fit another parameter, add it to
    :class:`~benchmarks.paper.methods.Fit` and a line here; the answers come from
    ``read_answers(folder, "dev")``, and nothing here has any others.
    """
    tasks = read_tasks(folder, "dev", protocol)
    truth = np.array(read_answers(folder, "dev")[protocol])
    queries, members = run_arrays.queries("dev", tasks)
    return fit_to(run_arrays.gallery(protocol), queries, members, truth)


def fit_to(
    gallery: Gallery, queries: Queries, members: NDArray[np.intp], truth: NDArray[np.integer]
) -> tuple[Fit, dict[str, dict[str, float]]]:
    """Likewise for Q tasks, of which ``members`` [Q, k] are the images among ``queries`` and
    ``truth`` [Q] the right models in ``gallery``."""

    def judged(distances: Floats) -> tuple[float, float]:
        of_tasks = distances[members].mean(axis=1)
        right = mid_ranks(of_tasks)[np.arange(len(truth)), truth]
        return float(top_k_credit(of_tasks, truth, 1).mean()), float(right.mean())

    gamma, by_gamma = _best(
        GAMMAS, lambda value: judged(paper_by(gallery, queries, UNFITTED, gamma=value))
    )
    shrinkage, by_shrinkage = _best(
        SHRINKAGES, lambda value: judged(default_by(gallery, queries, UNFITTED, shrinkage=value))
    )
    return Fit(gamma, shrinkage), {"gamma": by_gamma, "shrinkage": by_shrinkage}


def _best(
    values: Sequence[float], judge: Callable[[float], tuple[float, float]]
) -> tuple[float, dict[str, float]]:
    judged = {value: judge(value) for value in values}
    best = max(values, key=lambda value: (judged[value][0], -judged[value][1]))
    return best, {str(value): round(top_1, 6) for value, (top_1, _) in judged.items()}


# --- Models that join late -----------------------------------------------------------------------

HELD_OUT = 4
"""How many models join late."""

HELD_OUT_FILE = "scores/late.npz"

_CHOICES = 8
_FEWEST = 2 * HELD_OUT  # models, so that at least as many are early as late
_HELD_OUT_SEED = 41
_LATE_KEY = "late"
_POOLING = ("default", "default-none", "default-ground-truth")

Models = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """``late`` [C, 4]: the models left out by each choice. ``distances``: by method [1 + C, Q, M]
    of the Q test tasks of single images; the first with nobody left out, then choice by choice."""

    late: Models
    distances: Mapping[str, Array]


def held_out_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``methods`` that pool anything over models; beside ``default`` always its fitted
    form, whose shrinkage is chosen without the late models as well."""
    found = tuple(name for name in _POOLING if name in methods)
    fitted = "default" in methods or "default-fitted" in methods
    return (*found, "default-fitted") if fitted else found


def held_out_choices(models: int) -> Models:
    """Up to eight seeded choices of four of ``models``, [C, 4]; none of fewer than eight.

    They are cut from shuffled lists of all models, so that models are late equally often, as far as
    fours go into them.
    """
    if models < _FEWEST:
        return np.empty((0, HELD_OUT), np.int64)
    draw = np.random.default_rng(_HELD_OUT_SEED)
    each = models // HELD_OUT
    rounds = [
        draw.permutation(models)[: each * HELD_OUT].reshape(each, HELD_OUT)
        for _ in range(-(-_CHOICES // each))
    ]
    return np.sort(np.concatenate(rounds)[:_CHOICES], axis=1).astype(np.int64)


def held_out_distances(
    folder: Path,
    run_arrays: RunArrays,
    protocol: str,
    methods: tuple[str, ...],
    late: Models,
    progress: Callable[[], None],
) -> dict[str, NDArray[np.generic]]:
    """The arrays of :class:`HeldOut` for ``late``, as they stand in the file.

    Answers are read of dev tasks alone, and of these only those of early models are fitted to.
    ``progress`` is told of each choice, and of that with nobody left out.
    """
    whole = run_arrays.gallery(protocol)
    dev = read_tasks(folder, "dev", protocol)
    truth = np.array(read_answers(folder, "dev")[protocol])
    asked, members = run_arrays.queries("test", read_tasks(folder, "test", protocol))
    found: dict[str, list[Array]] = {method: [] for method in methods}
    for absent in [late[:0].ravel(), *late]:
        early = np.setdiff1d(np.arange(len(whole.members[0])), absent)
        own = _only(whole, early)
        kept = np.flatnonzero(np.isin(truth, early))
        tasks = TaskFile(models=dev.models, tasks=tuple(dev.tasks[row] for row in kept))
        queries, rows = run_arrays.queries("dev", tasks)
        fitted, _ = fit_to(own, queries, rows, np.searchsorted(early, truth[kept]))
        joined = _pooled_by(whole, own)
        for method in methods:
            distances = METHODS[method](joined, asked, fitted)[members].mean(axis=1)
            found[method].append(np.asarray(distances, np.float64))
        progress()
    return {_LATE_KEY: late, **{method: np.stack(each) for method, each in found.items()}}


def read_held_out(folder: Path, tasks: int, models: int) -> HeldOut | None:
    """What the score stage left for ``tasks`` test tasks over ``models`` models, if anything.

    Raises InputError for a file that is damaged or of other tasks.
    """
    path = folder / HELD_OUT_FILE
    if not path.exists():
        return None
    arrays = load_arrays(path)
    late = arrays.pop(_LATE_KEY, None)
    if (
        late is None
        or late.dtype != np.int64
        or late.ndim != 2
        or not ((late >= 0) & (late < models)).all()
        or any(
            array.dtype != np.float64
            or array.shape != (1 + len(late), tasks, models)
            or np.isnan(array).any()
            for array in arrays.values()
        )
    ):
        raise damaged(path, f"it does not fit {tasks} tasks x {models} models")
    return HeldOut(late, arrays)


def _only(whole: Gallery, early: Models) -> Gallery:
    """The gallery before the others joined, with what it alone teaches."""
    (member,) = whole.members
    images = member.image_embeddings[early]
    pooled = WithinScatter.of(images)
    part = replace(
        member,
        image_embeddings=images,
        grams=None if member.grams is None else member.grams[early],
        downloads=None if member.downloads is None else member.downloads[early],
        scatter=lambda: pooled,
    )
    return Gallery((part,), tuple(whole.pictures[model] for model in early))


def _pooled_by(whole: Gallery, own: Gallery) -> Gallery:
    """All models, judged by what ``own`` has pooled."""
    member = replace(whole.members[0], scatter=own.members[0].scatter)
    return Gallery((member,), whole.pictures)


# --- The stage -----------------------------------------------------------------------------------

SCORING = 2
"""Counts up when a method's arithmetic changes, so that kept distances are worked out anew."""

FITTED = "fitted.json"


def score_stage(benchmark: Benchmark, cache: StageCache, progress: Progress) -> bool:
    """Work out what is missing; whether there was any.

    Written are ``scores/SPLIT/PROTOCOL.npz``, a method a key, each [Q, M] float64 with Q tasks in
    the order of their file, ``fitted.json`` where a method wants it, and ``scores/late.npz`` for
    models that join late.
    """
    work = _Scoring(benchmark, cache, progress)
    progress(0, work.total)
    for split in SPLITS:
        for protocol in benchmark.protocols_of(split):
            work.score(split, protocol)
        for protocol in PROTOCOLS:
            if protocol not in benchmark.protocols_of(split):
                (cache.folder / "scores" / split / f"{protocol}.npz").unlink(missing_ok=True)
    work.score_late()
    return work.made


class _Scoring:
    """The parts of the stage. Distances of single images serve every protocol with the same
    specifications, and are kept here between them."""

    def __init__(self, benchmark: Benchmark, cache: StageCache, progress: Progress) -> None:
        self.made = False
        self._benchmark = benchmark
        self._cache = cache
        self._progress = progress
        self._run_arrays = RunArrays(cache.folder, benchmark.gamma)
        self._of_images: dict[tuple[str, str, str], tuple[str, Array]] = {}
        self._done = 0
        parts = sum(len(benchmark.protocols_of(split)) for split in SPLITS)
        self._late_methods = held_out_methods(benchmark.methods)
        self._late = held_out_choices(len(benchmark.models))
        if not self._late_methods or SINGLE not in benchmark.protocols:
            self._late = self._late[:0]
        # One more than the choices: nobody late, to compare with.
        self.total = parts * len(benchmark.methods) + (len(self._late) and 1 + len(self._late))
        self._fit: Fit | None = None

    def score(self, split: Split, protocol: str) -> None:
        """One split under one protocol."""
        methods = self._benchmark.methods

        def files() -> list[tuple[str, str]]:
            tasks = read_tasks(self._cache.folder, split, protocol)
            queries, members = self._run_arrays.queries(split, tasks)
            scores = {}
            for method in methods:
                each = self._distances(split, protocol, method, queries)
                scores[method] = each[members].mean(axis=1)
                if self._benchmark.resolution:
                    steps = np.round(scores[method] / self._benchmark.resolution)
                    scores[method] = steps * self._benchmark.resolution
                self._told()
            return [self._cache.write(f"scores/{split}/{protocol}.npz", array_bytes(scores))]

        inputs = self._inputs(split, protocol)
        if self._cache.make("score", f"{split}-{protocol}", inputs, files):
            self.made = True
        else:
            self._told(len(methods))

    def score_late(self) -> None:
        """The test tasks of single images, with models left out of what is pooled and fitted."""
        folder = self._cache.folder
        if not len(self._late):
            (folder / HELD_OUT_FILE).unlink(missing_ok=True)
            return
        inputs: list[object] = [self._common(), list(self._late_methods), self._late.tolist()]
        inputs += [self._files(split, SINGLE) for split in SPLITS]
        inputs += [sha256_file(answer_path(folder, "dev", SINGLE)), list(GAMMAS), list(SHRINKAGES)]

        def files() -> list[tuple[str, str]]:
            arrays = held_out_distances(
                folder, self._run_arrays, SINGLE, self._late_methods, self._late, self._told
            )
            return [self._cache.write(HELD_OUT_FILE, array_bytes(arrays))]

        self.made |= self._cache.make("score", "late", inputs, files)
        self._told(self.total - self._done)

    def _told(self, parts: int = 1) -> None:
        self._done += parts
        self._progress(self._done, self.total)

    def _distances(self, split: Split, protocol: str, method: str, queries: Queries) -> Array:
        """[I, M] of the query images."""
        key = (split, gallery_of(protocol), method)
        asked = queries.digest
        known = self._of_images.get(key)
        if known is None or known[0] != asked:
            fitted = self._fitted() if method in WITH_FIT else UNFITTED
            distances = METHODS[method](self._run_arrays.gallery(protocol), queries, fitted)
            known = asked, np.asarray(distances, float)
            self._of_images[key] = known
        return known[1]

    def _fitted(self) -> Fit:
        """Fitted on dev when a method first asks; what was fitted before is taken up."""
        if self._fit is None:
            folder, protocol = self._cache.folder, self._fitting_protocol
            inputs = [self._common(), self._files("dev", protocol), list(GAMMAS), list(SHRINKAGES)]
            inputs.append(sha256_file(answer_path(folder, "dev", protocol)))

            def files() -> list[tuple[str, str]]:
                found, tried = fit(folder, self._run_arrays, protocol)
                document = {"split": "dev", "protocol": protocol, "fit": asdict(found)}
                return [self._cache.write(FITTED, document_bytes({**document, "top_1": tried}))]

            self._cache.make("fit", "fit", inputs, files)
            self._fit = Fit(**json.loads((folder / FITTED).read_bytes())["fit"])
        return self._fit

    @property
    def _fitting_protocol(self) -> str:
        return self._benchmark.protocols_of("dev")[0]

    def _common(self) -> list[object]:
        benchmark = self._benchmark
        return [SCORING, benchmark.gamma, benchmark.resolution, versions(["numpy"])]

    def _files(self, split: Split, protocol: str) -> list[str | None]:
        """Digests of what the distances rest on."""
        folder = self._cache.folder
        places = [
            folder / "specs.json",
            folder / "embeddings" / "specs.npz",
            folder / "embeddings" / f"{split}.npz",
            folder / "pseudo" / f"{split}.npz",
            task_path(folder, split, protocol),
        ]
        if protocol in OWN_PROMPTS:
            places.append(folder / "embeddings" / "own.npz")
        return [sha256_file(place) for place in places]

    def _inputs(self, split: Split, protocol: str) -> object:
        inputs: list[object] = [self._common(), self._files(split, protocol)]
        inputs.append(list(self._benchmark.methods))
        if any(method in WITH_FIT for method in self._benchmark.methods):
            dev = self._fitting_protocol
            inputs.append(self._files("dev", dev))
            inputs.append([sha256_file(answer_path(self._cache.folder, "dev", dev))])
        return inputs

"""The records as Markdown."""

from __future__ import annotations

from itertools import groupby
from math import exp, log
from statistics import median
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

from .layers import KINDS
from .peers import CONTESTANTS
from .records import Entrant, Record, break_even
from .task import FORWARD, MODELS, TRAINING, WHATS
from .timing import fastest

OURS = CONTESTANTS[0].name
TITLES = {
    FORWARD: "Forward",
    TRAINING: "Training step: forward, gradient to the input, gradient of the weight",
    MODELS: "Whole models, end to end, batch 1",
}


def markdown(records: Sequence[Record], pictures: Sequence[str]) -> str:
    """The whole report."""
    parts = ["# Sparse against dense, and against other sparse libraries", _preface(records)]
    parts += [f"![{name}]({name})" for name in pictures]
    for (threads, backend), group in _grouped(records, lambda record: (record.case.threads, record.case.backend)):
        for what, some in _grouped(group, lambda record: (WHATS.index(record.case.what),)):
            parts.append(f"## {TITLES[WHATS[what[0]]]}: {backend}, {threads_in_words(threads)}")
            parts.append(_models(some) if WHATS[what[0]] == MODELS else _layers(some))
    return "\n\n".join(parts) + "\n"


def threads_in_words(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def _preface(records: Sequence[Record]) -> str:
    around = [record.circumstances for record in records]

    def every(key: str) -> str:
        return "; ".join(dict.fromkeys(circumstances[key] for circumstances in around))

    absent = [reason for reason in dict.fromkeys(circumstances["without"] for circumstances in around) if reason]
    lines = [
        "How many times faster than dense eager PyTorch, by the share of weights pruned at random; float32. Dense is "
        "the faster of NCHW and channels_last of the same run. The candidates take turns, in a new order each round; a "
        "figure is the median over rounds of the ratio within a round, and the column *spread* is the largest half "
        "distance between quartiles in its row. Layers are kernel against kernel. Models run through their modules, "
        "every layer pruned alike; *folded* is batch norm folded into convolutions by torch's own pass. *Break-even* "
        "is the sparsity from which sparse is faster (`<` where it is so from the first one measured).",
        "",
        f"- Machine: {every('machine')}",
        f"- Versions: {every('versions')}",
        f"- mpl-sparse: {every('commit')}",
        f"- Date: {every('date')}",
        *(f"- Without {reason}" for reason in absent),
        *(f"- Command: `{command}`" for command in dict.fromkeys(circumstances["command"] for circumstances in around)),
    ]
    return "\n".join(lines)


def _layers(records: Sequence[Record]) -> str:
    ordered = sorted(records, key=lambda record: KINDS.index(record.kind))
    sparsities = _sparsities(ordered)
    rows = [
        _row(record, record.dense, OURS, sparsities, [record.case.layer, str(record.case.batch)]) for record in ordered
    ]
    heading = ["layer", "batch", "dense ms", *map(_percent, sparsities), "break-even", "spread"]
    tables = [_table(heading, rows, words=1)]
    peers = _peers(ordered)
    if peers:
        middle = 0.9 if 0.9 in sparsities else sparsities[len(sparsities) // 2]
        tables += [
            f"How many times faster than the others this library is, at {_percent(middle)} (below 1: slower):",
            _table(["layer", "batch", *peers], _peer_rows(ordered, peers, middle), words=1),
            "The same by class, geometric means over layers and batches:",
            _table(["class", "peer", *map(_percent, sparsities)], _mean_rows(ordered, peers, sparsities), words=2),
        ]
    return "\n\n".join(tables)


def _models(records: Sequence[Record]) -> str:
    sparsities = _sparsities(records)
    rows = []
    for record in records:
        folded = {
            entrant: times
            for entrant, times in record.times.items()
            if entrant.sparsity is None and entrant not in record.baseline
        }
        dense = [record.dense, *([fastest(folded)] if folded else [])]
        ours = dict.fromkeys(entrant.peer for entrant in record.times if entrant.sparsity is not None)
        rows += [
            _row(record, baseline, peer, sparsities, [record.case.layer, peer, baseline.peer])
            for baseline in dense
            for peer in ours
        ]
    heading = ["model", "sparse", "against", "dense ms", *map(_percent, sparsities), "break-even", "spread"]
    return _table(heading, rows, words=3)


def _row(record: Record, baseline: Entrant, peer: str, sparsities: Sequence[float], words: List[str]) -> List[str]:
    """Speed-ups of `peer` over `baseline`."""
    ratios = {sparsity: record.speedup(peer, sparsity, baseline) for sparsity in sparsities}
    found = {sparsity: ratio for sparsity, ratio in ratios.items() if ratio is not None}
    crossing = break_even([(sparsity, ratio.median) for sparsity, ratio in found.items()])
    first = next(iter(found), None)
    return [
        *words,
        f"{1000 * median(record.times[baseline]):.3g}",
        *(f"{ratio.median:.3g}" if ratio else "" for ratio in ratios.values()),
        "none" if crossing is None else ("< " if crossing == first else "") + _percent(crossing),
        f"{max((ratio.spread for ratio in found.values()), default=0):.0%}",
    ]


def _peers(records: Iterable[Record]) -> List[str]:
    """All but ours and the baseline."""
    names = (entrant.peer for record in records for entrant in record.times if entrant not in record.baseline)
    return [name for name in dict.fromkeys(names) if name != OURS]


def _over_peer(record: Record, peer: str, sparsity: float) -> Optional[float]:
    """How many times faster ours is; a peer with a dense weight is the same at each sparsity."""
    for entrant in (Entrant(peer, sparsity), Entrant(peer, None)):
        if entrant in record.times:
            ratio = record.speedup(OURS, sparsity, over=entrant)
            return ratio.median if ratio else None
    return None


def _peer_rows(records: Sequence[Record], peers: Sequence[str], sparsity: float) -> List[List[str]]:
    rows = []
    for record in records:
        ratios = [_over_peer(record, peer, sparsity) for peer in peers]
        if any(ratios):
            cells = [f"{ratio:.3g}" if ratio else "" for ratio in ratios]
            rows.append([record.case.layer, str(record.case.batch), *cells])
    return rows


def _mean_rows(records: Sequence[Record], peers: Sequence[str], sparsities: Sequence[float]) -> List[List[str]]:
    rows = []
    for kind in KINDS:
        members = [record for record in records if record.kind == kind]
        for peer in peers:
            columns = [[_over_peer(record, peer, sparsity) for record in members] for sparsity in sparsities]
            cells = [_geometric_mean([ratio for ratio in column if ratio]) for column in columns]
            if any(cells):
                rows.append([kind, peer, *cells])
    return rows


def _geometric_mean(ratios: Sequence[float]) -> str:
    return f"{exp(sum(map(log, ratios)) / len(ratios)):.3g}" if ratios else ""


def _sparsities(records: Iterable[Record]) -> List[float]:
    return sorted({sparsity for record in records for sparsity in record.sparsities})


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _grouped(records: Sequence[Record], key: Callable[[Record], Tuple]) -> List[Tuple[Tuple, List[Record]]]:
    return [(value, list(group)) for value, group in groupby(sorted(records, key=key), key=key)]


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """The first `words` columns are text, the others numbers, to the right."""
    rule = ["---"] * words + ["---:"] * (len(heading) - words)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heading, rule, *rows))

"""A two-node Ray cluster on loopback writes the local engine's bytes, one node killed included.

The nodes are started in another folder than the stage's, as on a cluster; the data's path is
relative, as in params.yaml.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import ray

import stages.encode
import stages.prep
import tuning.reading.engine
from tests.unit.test_engine import (
    ROOT,
    die_at_three,
    refuse_three,
    run_both,
    use,
    write_corpus,
)
from tuning.corpus.cleaning import Cleaner
from tuning.encoding.encoder import Encoder
from tuning.reading import records
from tuning.reading.engine import map_in_order
from tuning.run.errors import UserError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="macOS has one loopback address"),
    # Ray copies its own settings, some of which it has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 5,
}
"""A lost node is given up after seconds, which is half a minute by default."""


class TwoNodes:
    """A head, which the driver joins, and a worker that can be killed: one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self._cluster = Cluster()
        self._cluster.add_node(
            **self._node,
            node_ip_address="127.0.0.2",
            include_dashboard=False,
            _system_config=QUICK_TO_NOTICE,
        )
        self.address: str = self._cluster.address

    def ensure_worker(self) -> str:
        """The id of the worker node, which is started if there is none."""
        if not self._cluster.worker_nodes:
            self._cluster.add_node(**self._node, node_ip_address="127.0.0.3")
        (worker,) = self._cluster.worker_nodes
        return str(worker.node_id)

    def kill_worker(self) -> None:
        (worker,) = self._cluster.worker_nodes
        self._cluster.remove_node(worker, allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def outside_the_project() -> Iterator[None]:
    """Everything Ray starts here stands in a folder of its own, and cannot phone home."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets' paths are limited
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.delenv("PYTHONPATH", raising=False)
        patch.chdir(folder)
        yield
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with outside_the_project():
        cluster = TwoNodes()
        os.chdir(ROOT)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def on_ray(cluster: TwoNodes, monkeypatch: pytest.MonkeyPatch) -> TwoNodes:
    monkeypatch.setenv("TUNING_ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    cluster.ensure_worker()
    return cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues in many small pieces, by a path from the project's folder."""
    folder = write_corpus(tmp_path_factory.mktemp("corpus") / "data", num_dialogues=300)
    return Path(os.path.relpath(folder, ROOT))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PIECE_BYTES", 4_000)


@pytest.fixture(scope="module")
def expected(
    source: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """What the local engine writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "PIECE_BYTES", 4_000)
        use(2, patch)
        return run_both(source, tiny_base, tmp_path_factory.mktemp("local"))


def test_two_nodes_write_the_local_engines_bytes(
    expected: dict[str, object], source: Path, tiny_base: Path, tmp_path: Path, on_ray: TwoNodes
) -> None:
    assert run_both(source, tiny_base, tmp_path) == expected


@pytest.mark.thorough
def test_a_node_killed_in_each_stage_changes_no_byte(
    expected: dict[str, object],
    source: Path,
    tiny_base: Path,
    tmp_path: Path,
    on_ray: TwoNodes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed_in = set()

    def killing(make: Callable[[], Any], pieces: Iterable[Any]) -> Iterator[Any]:
        on_ray.ensure_worker()
        for number, result in enumerate(map_in_order(make, pieces), start=1):
            if number == 5 and isinstance(make, partial) and make.func not in killed_in:
                on_ray.kill_worker()
                killed_in.add(make.func)
            yield result

    monkeypatch.setattr(stages.prep, "map_in_order", killing)
    monkeypatch.setattr(stages.encode, "map_in_order", killing)
    assert run_both(source, tiny_base, tmp_path) == expected
    assert killed_in == {Cleaner, Encoder}


FROM = 40  # later than what Ray Data wants to have before it hands out the first results


class Double:
    """A function that gets stuck on one node; the others wait until it is."""

    def __init__(self, calls: Path, stuck_on: str) -> None:
        self._calls = calls
        self._gets_stuck = ray.get_runtime_context().get_node_id() == stuck_on

    def __call__(self, number: int) -> int:
        (self._calls / f"{number}-{time.monotonic_ns()}").touch()
        if number >= FROM and self._gets_stuck:
            (self._calls / "stuck").touch()
            time.sleep(600)
        while number >= FROM and not (self._calls / "stuck").exists():
            time.sleep(0.01)
        return 2 * number


def test_what_a_killed_node_had_under_way_is_done_by_another(
    on_ray: TwoNodes, tmp_path: Path
) -> None:
    results = map_in_order(partial(Double, tmp_path, on_ray.ensure_worker()), range(100))
    assert list(islice(results, 5)) == [0, 2, 4, 6, 8]
    until = time.monotonic() + 60
    while not (tmp_path / "stuck").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    on_ray.kill_worker()
    assert list(results) == [2 * number for number in range(5, 100)]
    assert len(list(tmp_path.glob("*-*"))) > 100


def open_nothing(number: int) -> int:
    return Path("/nowhere/at/all").stat().st_size


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (refuse_three, r"^line 3: found three, wanted anything else\.$"),
        (die_at_three, "^the Ray cluster failed: The worker died"),
        (open_nothing, "on the Ray node .*'/nowhere/at/all'. Every node must see"),
    ],
)
def test_what_goes_wrong_on_a_node_arrives_as_a_users_error(
    on_ray: TwoNodes,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[[int], int],
    message: str,
) -> None:
    monkeypatch.setattr(tuning.reading.engine, "RETRIES", 1)
    with pytest.raises(UserError, match=message):
        list(map_in_order(partial(constant, function), range(9)))


def constant(function: Callable[[int], int]) -> Callable[[int], int]:
    return function


def run_alone(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that has not joined the cluster."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"TUNING_ENGINE": "ray"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


MAP = """
import os, signal
from functools import partial
from tuning.reading.engine import map_in_order
from tuning.run.process import run_stage
run_stage("prep", lambda: print(*map_in_order(partial(partial, abs), [-1, 2])))
"""


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "nonsense", "127.0.0.1:x"])
def test_no_cluster_at_the_address_is_one_clear_error_at_once(address: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can answer there
        address = address.format(port=closed.getsockname()[1])
        result = run_alone(MAP, RAY_ADDRESS=address)  # Ray itself would knock for minutes
    assert result.returncode == 1
    assert result.stderr.startswith(f"\nprep: RAY_ADDRESS={address}: no Ray cluster there (")
    assert result.stderr.count("\n") == 2


def test_a_missing_ray_is_one_clear_error() -> None:
    result = run_alone(f"import sys\nsys.modules['ray'] = None\n{MAP}")
    assert result.returncode == 1
    assert (
        "prep: TUNING_ENGINE=ray: " in result.stderr and "pip install 'ray[data]'" in result.stderr
    )
    assert "Traceback" not in result.stderr


def test_a_process_of_its_own_joins_and_says_nothing_else(on_ray: TwoNodes) -> None:
    result = run_alone(MAP, RAY_ADDRESS=on_ray.address)
    assert (result.returncode, result.stdout, result.stderr) == (0, "1 2\n", "")


def test_sigterm_still_ends_a_stage_with_128_plus_15(on_ray: TwoNodes) -> None:
    """DVC must see it; Ray puts a handler of its own in place."""
    code = MAP.replace("print(*", "any(os.kill(os.getpid(), signal.SIGTERM) for _ in ")
    assert run_alone(code, RAY_ADDRESS=on_ray.address).returncode == 128 + 15

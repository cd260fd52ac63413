"""Three ranks, of which rank 1 is lost in one way or another: what test_roll_call.py starts, once for all ways.

The ranks are forked, so that torch is loaded once. This process keeps their store, as torchrun does, and like torchrun
it asks the others to end when one has died.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch.distributed import TCPStore

from nano_gpt.runtime import distributed, logs, roll_call

TIMEOUT = 6.0
WAYS = ["frozen", "raised", "stuck", "frozen while the others are deaf", "never there", "killed"]
VICTIM = 1

roll_call._INTERVAL, roll_call._PATIENCE = 0.25, 2.5


def work(way: str) -> None:
    """What every rank does; `deaf` are those that wait for something else than a collective."""
    ranks = distributed.from_environment()
    victim = ranks.rank == VICTIM
    if way == "never there" and victim:
        time.sleep(1000)
    with distributed.process_group(ranks, torch.device("cpu"), TIMEOUT):
        distributed.all_reduce_sum(torch.ones(3))
        if victim:
            if way == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif way.startswith("frozen"):
                os.kill(os.getpid(), signal.SIGSTOP)
            elif way == "raised":
                raise ValueError("no such luck")
            else:
                time.sleep(1000)
        if way.endswith("deaf"):
            time.sleep(1000)
        distributed.all_reduce_sum(torch.ones(3))


def rank_process(way: str, rank: int, folder: Path) -> int:
    """Fork one; its stderr goes to a file. Returns its process id."""
    if child := os.fork():
        return child
    port = folder / f"{way} port"
    while not port.exists():
        time.sleep(0.05)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port.read_text()}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    os.dup2(os.open(folder / f"{way} {rank}", os.O_CREAT | os.O_WRONLY), 2)
    logs.set_up(main_rank=rank == 0)
    try:
        work(way)
    except Exception as error:
        if not getattr(error, "on_all_ranks", False):
            logs.logger.error(f"{type(error).__name__}: {error}")
    os._exit(1)


def main() -> None:
    folder = Path(sys.argv[1])
    children = {(way, rank): rank_process(way, rank, folder) for way in WAYS for rank in range(3)}
    stores = []
    for way in WAYS:  # after the forks, which threads do not survive
        time.sleep(0.5)  # where many connect at one moment, some virtual machines let a part of them wait for seconds
        stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        (folder / f"{way} port.new").write_text(str(stores[-1].port))
        (folder / f"{way} port.new").rename(folder / f"{way} port")
    os.waitpid(children["killed", VICTIM], 0)
    time.sleep(1.0)
    for rank in (0, 2):
        os.kill(children["killed", rank], signal.SIGTERM)
    for (way, rank), child in children.items():
        if rank != VICTIM:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            (folder / f"{way} {rank} status").write_text(str(status))
    for way in WAYS:
        if way not in ("killed", "raised"):
            os.kill(children[way, VICTIM], signal.SIGKILL)


main()

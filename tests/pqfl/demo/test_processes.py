"""The demonstration's crew: listened to, complained about with its log, and ended whatever happens."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue

import psutil
import pytest

from pqfl.demo.processes import Crew, Inbox, follow
from pqfl_transport.errors import TransportError

FOREVER = "import json, signal; print(json.dumps({'event': 'up'}), flush=True); signal.pause()"


def test_events_arrive_and_the_log_keeps_every_line(tmp_path: Path) -> None:
    """JSON lines are events, other lines only go to the log."""
    with Crew(tmp_path) as crew:
        script = 'print(\'plain words\'); print(\'{"event": "one"}\'); print(\'{"event": "two"}\')'
        inbox: Inbox = SimpleQueue()
        process = crew.start("speaker", "-c", script, inbox=inbox)
        assert [event["event"] for _, event in follow([process], inbox, 10)] == ["one", "two"]
    assert (tmp_path / "speaker.log").read_text().splitlines()[0] == "plain words"


def test_a_process_that_fails_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    """Who waits for an event of a dead process gets its last words, not a time-out."""
    with Crew(tmp_path) as crew:
        process = crew.start("victim", "-c", "raise SystemExit('the disk is full')")
        with pytest.raises(TransportError, match=r"victim ended with status 1[\s\S]*the disk is full"):
            process.wait_for(bool, 10)


def test_the_failure_of_one_ends_the_following_of_all(tmp_path: Path) -> None:
    """With a shared inbox nobody waits for the good processes when one has failed."""
    with Crew(tmp_path) as crew:
        inbox: Inbox = SimpleQueue()
        crowd = [crew.start("good", "-c", FOREVER, inbox=inbox), crew.start("bad", "-c", "raise OSError", inbox=inbox)]
        with pytest.raises(TransportError, match="bad ended with status 1"):
            list(follow(crowd, inbox, 10))


def test_silence_is_not_waited_for_forever(tmp_path: Path) -> None:
    """A process that hangs ends the wait with its name."""
    with Crew(tmp_path) as crew:
        process = crew.start("sleeper", "-c", FOREVER)
        process.wait_for(lambda event: event["event"] == "up", 10)
        with pytest.raises(TransportError, match="sleeper says nothing"):
            process.wait_for(bool, 0.05)


def test_leaving_the_block_ends_everybody_even_who_ignores_term(tmp_path: Path) -> None:
    """An error inside the block does not leave a process behind, and a deaf process is killed."""
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"
    crew = Crew(tmp_path)

    def fail_in_the_middle() -> None:
        with crew:
            for name, script in (("good", FOREVER), ("deaf", deaf)):
                crew.start(name, "-c", script).wait_for(lambda event: event["event"] == "up", 10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert not any(psutil.pid_exists(process.pid) for process in crew.members)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child's life to its parent's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_demonstration_that_is_ended_from_outside_leaves_nothing_behind(
    number: signal.Signals, tmp_path: Path
) -> None:
    """TERM and even KILL of the demonstration end its children too."""
    script = (
        "import sys; from pathlib import Path; from pqfl.demo.processes import Crew\n"
        f"with Crew(Path({str(tmp_path)!r})) as crew:\n"
        f"    child = crew.start('child', '-c', {FOREVER!r})\n"
        "    child.wait_for(bool, 10)\n"
        "    print(child.pid, flush=True)\n"
        "    child.wait(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, number)
    parent.wait(10)
    parent.stdout.close()
    child.wait(10)
    assert not child.is_running()

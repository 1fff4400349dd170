"""The ClientApp in a worker of Ray."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message

from .apps import AppByName

ENDED = "ended"  # a file that tells workers that no reply is waited for any more
GUARD_INTERVAL = 0.5  # seconds
LAST_WORDS = 2.0  # seconds in which a worker may end in good order


@dataclass(frozen=True)
class GuardedApp:
    """The ClientApp in a worker of Ray, which ends when a message takes too long.

    A call cannot be ended, but its process can: Ray starts another, and gives it the message once
    more, which is then answered with an error. Without it, such a client would keep its worker.

    Attributes
    ----------
    app : AppByName
        The app.
    seconds : float
        What a message may take.
    folder : str
        A folder of the run, where workers note which messages they gave up.
    cwd : str
        The server's current folder, from which relative paths in settings start.
    """

    app: AppByName
    seconds: float
    folder: str
    cwd: str

    def __call__(self, message: Message, context: Context) -> Message:
        """Call the ClientApp."""
        given_up = Path(self.folder) / f"given-up-{message.metadata.message_id}"
        if given_up.exists():
            return Message(Error(0, f"gave up after {self.seconds:g} s"), reply_to=message)
        os.chdir(self.cwd)
        signal.signal(signal.SIGUSR2, _leave)
        answered = threading.Event()
        threading.Thread(target=self._guard, args=(answered, given_up), daemon=True).start()
        try:
            return self.app(message, context)
        finally:
            answered.set()

    def _guard(self, answered: threading.Event, given_up: Path) -> None:
        """End this process if the message is not answered in time, or before the run ends."""
        deadline = time.monotonic() + self.seconds
        while not answered.wait(GUARD_INTERVAL):
            ended = (Path(self.folder) / ENDED).exists()
            if ended:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
            if time.monotonic() > deadline or (ended and not answered.wait(LAST_WORDS)):
                given_up.touch()
                os._exit(1)


def _leave(number: int, frame: Any) -> None:
    """End this worker as one that is not needed: Ray says at length of any other that it died."""
    import ray

    ray.actor.exit_actor()  # type: ignore[no-untyped-call]

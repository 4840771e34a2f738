"""What the search uses of keras-tuner beyond its public interface (as of 1.4)."""

import os
import pathlib

import keras_tuner
from keras_tuner.engine.trial import Trial

from igpt_keras.atomic import atomic_path
from igpt_keras.json_files import write_json

ORACLE_FILE = "oracle.json"
TRIAL_FILE = "trial.json"
TUNER_FILE = "tuner0.json"


def asks_another_process() -> bool:
    """Whether this process is a worker of a search whose oracle another one has, the chief.

    keras-tuner reads the roles from the environment: `KERASTUNER_ORACLE_IP`,
    `KERASTUNER_ORACLE_PORT`, and `KERASTUNER_TUNER_ID`, which contains "chief" in the chief.
    """
    tuner_id = os.environ.get("KERASTUNER_TUNER_ID", "")
    return "KERASTUNER_ORACLE_IP" in os.environ and "chief" not in tuner_id


class OneFileTuner(keras_tuner.Tuner):
    """A tuner whose file has the same name whether the search runs in one process or in several.

    keras-tuner names it after the process, so a chief would begin anew what one process began.
    """

    @property
    def file(self) -> pathlib.Path:
        """The file that keras-tuner reloads the tuner from."""
        return pathlib.Path(self.project_dir, TUNER_FILE)

    def _get_tuner_fname(self) -> str:
        return str(self.file)


class AtomicOracle(keras_tuner.Oracle):
    """An oracle whose files are written whole or not at all, by one of several workers.

    keras-tuner writes them in place, so a process that is killed can leave half a file, with which
    no search resumes. There is no public hook for where or how an oracle writes.

    Args:
        writes: False in workers that are not the chief.
        *arguments: As for `keras_tuner.Oracle`.
        **keywords: As for `keras_tuner.Oracle`.
    """

    def __init__(self, *arguments, writes: bool = True, **keywords):
        super().__init__(*arguments, **keywords)
        self.writes = writes

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the search. The public `directory` and `project_name` stay None."""
        return pathlib.Path(self._project_dir)

    def save(self) -> None:
        """Writes the state of the oracle."""
        if self.writes:
            write_json(self.folder / ORACLE_FILE, self.get_state())

    def _save_trial(self, trial: Trial) -> None:
        """Writes the state of a trial; keras-tuner calls this whenever it changes."""
        if self.writes:
            folder = self.folder / f"trial_{trial.trial_id}"
            folder.mkdir(exist_ok=True)
            with atomic_path(folder / TRIAL_FILE, overwrite=True) as partial:
                trial.save(str(partial))

"""A runner without Apache Beam, for the tests of what its workers do."""

import pickle


class SerialRunner:
    """Works on one shard after the other, with a copy of the work as a worker gets it.

    Args:
        last: Number of shards after which the process is "killed"; None for none.
    """

    def __init__(self, last=None):
        self.last = last

    def run(self, work, shards):
        work = pickle.loads(pickle.dumps(work))
        for shard in shards[: self.last]:
            work(shard)
        if self.last is not None:
            raise KeyboardInterrupt

from igpt_keras.training.callbacks.stopwatch import Stopwatch


def test_the_time_of_earlier_processes_counts_and_the_time_between_does_not():
    clock = iter([10.0, 17.0, 1000.0, 1002.0]).__next__
    first = Stopwatch(clock)
    state = first.get_state()
    second = Stopwatch(clock)
    second.set_state(state)
    assert second.seconds == (17 - 10) + (1002 - 1000)

"""Who is served first, compared with what each client has had."""

import collections

import numpy as np

from serving.server.turns import Turns


def address(host, port):
    return f"ipv4:10.0.0.{host}:{port}"


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("serving.server.turns.time.monotonic", lambda: self.now)


def serve(clock, requests, arrivals=lambda clock, client: ()):
    """Serves requests (client, arrival) one by one, a second each; the clients in order."""
    turns, waiting, order = Turns(), list(requests), []
    while waiting:
        clock.now += 1
        client, _ = waiting.pop(turns.first(waiting))
        order.append(client)
        waiting += arrivals(clock, client)
        turns.served([client], [client for client, _ in waiting])
    return order


def test_one_request_each_is_served_in_the_order_of_arrival(monkeypatch):
    arrivals = np.random.default_rng(0).permutation(20).astype(float)
    requests = [(address(n, 5000), arrival - 100) for n, arrival in enumerate(arrivals)]
    order = serve(Clock(monkeypatch), requests)
    assert order == [client for client, _ in sorted(requests, key=lambda request: request[1])]


def test_clients_with_many_requests_take_turns(monkeypatch):
    clients = [address(n, 5000) for n in range(3)]
    requests = [(client, -50.0 + index) for index, client in enumerate(clients) for _ in range(8)]
    order = serve(Clock(monkeypatch), requests)
    assert order == clients * 8


def test_a_request_waits_only_for_the_batch_that_runs(monkeypatch):
    many, one = address(1, 5000), address(2, 5000)

    def arrives(clock, client):
        return [(one, clock.now - 0.5)] if clock.now == 3 else []

    order = serve(Clock(monkeypatch), [(many, -1.0)] * 10, arrives)
    assert order.index(one) == 3


def test_connections_of_one_host_share_its_turns(monkeypatch):
    many = [address(1, port) for port in range(10)]
    other = address(2, 5000)
    order = serve(Clock(monkeypatch), [(client, -10.0) for client in many] + [(other, -1.0)] * 5)
    assert order[:2] == [many[0], other]
    assert order[:10].count(other) == 5
    # Among themselves, connections take turns as well.
    assert collections.Counter(order) == {**dict.fromkeys(many, 1), other: 5}


def test_those_who_come_back_at_once_do_not_starve_one_who_waits(monkeypatch):
    eager = [address(n, 5000) for n in range(4)]
    patient = address(9, 5000)

    def comes_back(clock, client):
        return [(client, clock.now)] if client in eager and clock.now < 40 else []

    requests = [(client, -5.0) for client in eager] + [(patient, -1.0)] * 20
    order = serve(Clock(monkeypatch), requests, comes_back)
    # Everyone gets a fifth.
    assert [order[:40].count(client) for client in (*eager, patient)] == [8] * 5

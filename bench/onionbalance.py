"""Times OnionBalance's own classes for the program that starts this.

Reads one JSON object a line from standard input and answers each with one. The
first is the set-up; every other names an operation and for how many seconds it
is to be repeated, and is answered with the processor time that one took.
"""
import base64
import io
import json
import logging
import sys
import time

import stem.descriptor.microdescriptor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onionbalance.hs_v3 import consensus, descriptor, hashring
from onionbalance.hs_v3.onionbalance import my_onionbalance

logging.disable(logging.CRITICAL)  # in operation it logs, which takes time


class AgedConsensus(consensus.Consensus):
    """Has a shared-random run that is as old as the set-up says."""

    run_age = 0

    def get_start_time_of_previous_srv_run(self):
        return int(time.time()) - self.run_age


class Documents:
    """Stands for both of OnionBalance's controllers: has the network's documents."""

    def __init__(self, consensus_text, microdescs):
        self.controller = self
        self.consensus_text = consensus_text
        self.microdescs = microdescs

    def get_md_consensus(self):
        return self.consensus_text

    def get_microdescriptors(self):  # as stem does with what tor answers
        return stem.descriptor.microdescriptor._parse_file(io.BytesIO(self.microdescs))


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Operations:
    def __init__(self, setup):
        self.address = setup["address"]
        self.text = base64.b64decode(setup["descriptor"])
        self.key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(setup["seed"]))
        self.param = bytes(range(32))
        my_onionbalance.controller = Documents(read(setup["consensus"]).decode(), read(setup["microdescs"]))
        my_onionbalance.consensus = AgedConsensus(do_refresh_consensus=False)
        AgedConsensus.run_age = setup["run_age"]
        my_onionbalance.consensus.refresh()
        self.points = descriptor.ReceivedDescriptor(self.text, self.address).get_intro_points()

    def make(self):
        made = descriptor.OBDescriptor(self.address, self.key, self.param, self.points, True)
        assert len(made.get_intro_points()) == len(self.points)

    def parse(self):
        received = descriptor.ReceivedDescriptor(self.text, self.address)
        assert len(received.get_intro_points()) == len(self.points)

    def rings(self):
        my_onionbalance.consensus.refresh()
        for first in (True, False):
            assert len(hashring._get_hash_ring_for_descriptor(first)) > 7900


def timed(operation, seconds):
    count, start = 0, time.process_time()
    while True:
        operation()
        count += 1
        took = time.process_time() - start
        if took >= seconds:
            return took / count


def main():
    operations = Operations(json.loads(sys.stdin.readline()))
    print(json.dumps({"points": len(operations.points)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        took = timed(getattr(operations, request["operation"]), request["seconds"])
        print(json.dumps({"seconds": took}), flush=True)


main()

"""Sionna SYS 2.2's own system-level loop: proportional fair, outer-loop link adaptation, EESM, PHY abstraction, per-PRB SINR.

As its end-to-end tutorial runs it, with two things in its favour: one SINR per PRB instead of one per subcarrier and symbol
(the transport block still has 144 resource elements per PRB), and the channel is drawn before the clock starts. It has no
HARQ, no traffic and no reports. `--compile` compiles one slot with torch.compile.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from sionna.phy import config
from sionna.sys import EESM, OuterLoopLinkAdaptation, PFSchedulerSUMIMO, PHYAbstraction

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker

USERS, PRBS, RE_PER_PRB, DRAWS = 10, 51, 144, 64


class Loop:
    def __init__(self, batch):
        self.batch = [] if batch == 1 else [batch]
        self.scheduler = PFSchedulerSUMIMO(USERS, PRBS, 1, batch_size=self.batch, beta=0.98)
        self.phy = PHYAbstraction()
        self.eesm = EESM()
        self.olla = OuterLoopLinkAdaptation(self.phy, USERS, batch_size=self.batch, delta_up=1.0)
        # SINR at equal power: Rayleigh fading around user means spread like a cell's, 20 dB in the middle.
        mean_db = torch.linspace(2.0, 38.0, USERS)
        fading = torch.empty(DRAWS, *self.batch, 1, PRBS, USERS, 1).exponential_()
        self.sinr = fading * (10 ** (mean_db / 10))[:, None]
        self.rates = torch.log2(1 + self.sinr[..., 0])
        shape = self.batch + [USERS]
        self.harq = torch.full(shape, -1, dtype=torch.int32)
        self.report = torch.zeros(shape)
        self.bits = torch.zeros(shape)

    def slot(self, sinr, rates, bits, harq, report):
        scheduled = self.scheduler(bits, rates)
        num_re = scheduled.sum(dim=(-4, -3, -1)).to(torch.int32) * RE_PER_PRB
        mcs = self.olla(num_allocated_re=num_re, harq_feedback=harq, sinr_eff=report, mcs_table_index=1, mcs_category=1)
        used = torch.where(scheduled, sinr, torch.zeros_like(sinr))
        report = self.eesm(used, mcs, mcs_table_index=1)
        decoded, harq, _, _, _ = self.phy(mcs, sinr_eff=report, num_allocated_re=num_re, mcs_table_index=1, mcs_category=1)
        return decoded.to(torch.float32), harq, report

    def run(self, slots, step):
        total = torch.zeros([])
        for t in range(slots):
            k = t % DRAWS
            self.bits, self.harq, self.report = step(self.sinr[k], self.rates[k], self.bits, self.harq, self.report)
            total = total + self.bits.sum()
        return float(total)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--slots", type=int, default=200)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    config.seed = 1
    loop = Loop(args.batch)
    step = loop.slot
    with torch.no_grad():
        if args.compile:
            step = torch.compile(loop.slot, mode="default")
        loop.run(20, step)

        def measure():
            begin = time.perf_counter()
            bits = loop.run(args.slots, step)
            seconds = time.perf_counter() - begin
            return {"rate": args.slots * args.batch / seconds, "bits_per_slot": bits / (args.slots * args.batch)}

        worker.serve(measure, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()

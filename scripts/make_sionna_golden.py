#!/usr/bin/env python3
"""Writes a golden file of Sionna SYS's own answers, in the form of data/golden/sionna_sys.json.

    scripts/make_sionna_golden.py --seed 7 --out golden.json
    TRIMTAB_SIONNA_GOLDEN=golden.json ctest -R sionna

Needs `sionna-no-rt` and PyTorch (scripts/requirements/sionna.txt). Use it to check another Sionna version or other cases;
single precision is Sionna's default and is what is recorded, with a stable value beside it where that matters.
"""

import argparse
import json
import math
import random
from importlib.metadata import version

import torch
from sionna.phy import config
from sionna.phy.channel import cir_to_ofdm_channel, subcarrier_frequencies
from sionna.phy.nr.utils import calculate_tb_size, decode_mcs_index
from sionna.sys import (EESM, InnerLoopLinkAdaptation, OuterLoopLinkAdaptation, PFSchedulerSUMIMO, PHYAbstraction,
                        downlink_fair_power_control)

NUM_MCS = {1: 29, 2: 28, 3: 29, 4: 27}
PDSCH = 1


def value(x):
    """A number as JSON can hold it."""
    x = float(x)
    return "inf" if math.isinf(x) else x


def single(x):
    return float(torch.tensor(x, dtype=torch.float32))


def mcs_of(table, mcs):
    qm, rate = decode_mcs_index(torch.tensor(mcs), table_index=torch.tensor(table), is_pusch=False)
    return qm, rate


def mcs_tables():
    tables = {}
    for table, count in NUM_MCS.items():
        entries = [mcs_of(table, m) for m in range(count)]
        tables[str(table)] = [{"mcs": m, "qm": int(q), "rate1024": round(float(r) * 1024, 4)}
                              for m, (q, r) in enumerate(entries)]
    return {"how": "decode_mcs_index(mcs, table_index=table, is_pusch=False)", "tables": tables}


def spec_tb_size(rate1024, num_coded_bits):
    """TS 38.214 5.1.3.2 in integers; the rate in units of 1/2048."""
    info = num_coded_bits * round(rate1024 * 2)  # times 2048
    if info <= 3824 * 2048:
        n = max(3, (info // 2048).bit_length() - 1 - 6)
        quantised = max(24, (1 << n) * (info // (2048 << n)))
        return next(size for size in SMALL_SIZES if size >= quantised)
    rest = info - 24 * 2048
    n = (rest // 2048).bit_length() - 1 - 5
    quantised = max(3840, (1 << n) * ((2 * rest + (2048 << n)) // (2 * (2048 << n))))
    blocks = 1
    if rate1024 <= 256:
        blocks = -(-(quantised + 24) // 3816)
    elif quantised > 8424:
        blocks = -(-(quantised + 24) // 8424)
    return 8 * blocks * -(-(quantised + 24) // (8 * blocks)) - 24


SMALL_SIZES = (
    list(range(24, 193, 8)) + list(range(208, 385, 16)) + list(range(408, 577, 24)) + list(range(608, 769, 32))
    + [808, 848, 888, 928, 984, 1032, 1064] + list(range(1128, 1353, 32)) + list(range(1416, 1929, 64))
    + [2024] + list(range(2088, 2281, 64)) + list(range(2408, 2857, 64)) + [2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824])


def tbs(rng, count):
    cases = []
    for i in range(count):
        table = rng.randint(1, 4)
        c = {"table": table, "mcs": rng.randrange(NUM_MCS[table]), "num_prb": rng.randint(1, 273),
             "num_symbols": rng.randint(1, 14), "num_dmrs_per_prb": rng.choice([0, 6, 8, 12]),
             "num_layers": rng.randint(1, 4)}
        if i == 0:
            c = {"table": 1, "mcs": 0, "num_prb": 128, "num_symbols": 13, "num_dmrs_per_prb": 8, "num_layers": 1}
        qm, rate = mcs_of(c["table"], c["mcs"])
        size, cb_size, num_cb, tb_crc, cb_crc = calculate_tb_size(
            qm, rate, num_prbs=c["num_prb"], num_ofdm_symbols=c["num_symbols"], num_dmrs_per_prb=c["num_dmrs_per_prb"],
            num_layers=c["num_layers"], return_cw_length=False)
        coded = min(156, 12 * c["num_symbols"] - c["num_dmrs_per_prb"]) * c["num_prb"] * int(qm) * c["num_layers"]
        c.update(tb_size=int(size), cb_size=int(cb_size), num_cb=int(num_cb), tb_crc=int(tb_crc), cb_crc=int(cb_crc),
                 spec_tb_size=spec_tb_size(round(float(rate) * 2048) / 2, coded))
        cases.append(c)
    return {"how": "calculate_tb_size(qm, rate, num_prbs=, ...)", "cases": cases}


def random_grid(rng):
    """[symbols][subcarriers][streams] with unused entries."""
    shape = (rng.randint(1, 2), rng.randint(1, 24), rng.randint(1, 2))
    center, spread, unused = rng.uniform(-8, 24), rng.uniform(0, 6), rng.choice([0, 0, 0.3, 0.7])
    return [[[0.0 if rng.random() < unused else single(10 ** ((center + rng.gauss(0, spread)) / 10)) for _ in range(shape[2])]
             for _ in range(shape[1])] for _ in range(shape[0])]


def flat(grid):
    return [s for symbol in grid for carrier in symbol for s in carrier]


def stable_eesm(sinr, beta):
    used = [s for s in sinr if s > 0]
    if not used:
        return 0.0
    low = min(used)
    mean = sum(math.expm1(-(s - low) / beta) for s in used) / len(used)
    return min(max(low - beta * math.log1p(mean), 1e-3), 1e3)


def eesm(rng, count, phy):
    esm = EESM()
    betas = {str(t): esm.beta_table["index"][t] for t in (1, 2)}
    cases = []
    for _ in range(count):
        table = rng.randint(1, 2)
        mcs, grid = rng.randrange(NUM_MCS[table]), random_grid(rng)
        tensor = torch.tensor(grid)[:, :, None, :]
        index, beta = torch.tensor([mcs]), betas[str(table)][mcs]
        sinr_eff = float(esm(tensor, index, mcs_table_index=table, per_stream=False)[0])
        *_, tbler, bler = phy(index, sinr=tensor, mcs_table_index=table, mcs_category=PDSCH)
        used = [s for s in flat(grid) if s > 0]
        cases.append({"table": table, "mcs": mcs, "sinr": grid, "sinr_eff": sinr_eff,
                      "sinr_eff_stable": stable_eesm(flat(grid), beta),
                      "float32_underflow": bool(used) and min(used) / beta > 80, "num_allocated_re": len(used),
                      "tbler": value(tbler[0]), "bler": value(bler[0])})
    return {"how": "EESM()(sinr, mcs, mcs_table_index=table, per_stream=False)", "beta": betas, "cases": cases}


def phy_cases(rng, count, phy):
    cases = []
    for _ in range(count):
        table = rng.randint(1, 4)
        mcs, num_re = rng.randrange(NUM_MCS[table]), rng.choice([0] + [int(10 ** rng.uniform(1, 4.6)) for _ in range(12)])
        sinr_eff = single(10 ** (rng.uniform(-6, 27) / 10))
        qm, rate = mcs_of(table, mcs)
        size, cb_size, num_cb, _, _ = calculate_tb_size(qm, rate, num_coded_bits=int(qm) * num_re, return_cw_length=False)
        *_, tbler, bler = phy(torch.tensor([mcs]), sinr_eff=torch.tensor([sinr_eff]), num_allocated_re=torch.tensor([num_re]),
                              mcs_table_index=table, mcs_category=PDSCH)
        uniform, tbler = single(rng.random()), value(tbler[0])
        harq = -1 if num_re == 0 else 0 if uniform < float(tbler) else 1
        cases.append({"table": table, "mcs": mcs, "num_re": num_re, "sinr_eff": sinr_eff, "tb_size": int(size),
                      "cb_size": int(cb_size), "num_cb": int(num_cb), "bler": value(bler[0]), "tbler": tbler,
                      "uniform": uniform, "harq": harq, "decoded_bits": int(size) if harq == 1 else 0})
    return {"how": "PHYAbstraction()(mcs, sinr_eff=, num_allocated_re=num_re, mcs_table_index=table, mcs_category=1)",
            "cases": cases}


def illa(rng, count, grid_count, phy):
    loops = {target: InnerLoopLinkAdaptation(phy, target) for target in (0.01, 0.1, 0.3)}
    cases, grid_cases = [], []
    for _ in range(count):
        table, target = rng.randint(1, 4), rng.choice(list(loops))
        sinr_eff = single(10 ** (rng.uniform(-12, 32) / 10))
        num_re = rng.choice([0] + [int(10 ** rng.uniform(1, 4.6)) for _ in range(12)])
        mcs = loops[target](sinr_eff=torch.tensor([sinr_eff]), num_allocated_re=torch.tensor([num_re]),
                            mcs_table_index=table, mcs_category=PDSCH)
        cases.append({"table": table, "bler_target": target, "sinr_eff": sinr_eff, "num_re": num_re, "mcs": int(mcs[0])})
    for _ in range(grid_count):
        table, target, grid = rng.randint(1, 2), rng.choice(list(loops)), random_grid(rng)
        mcs = loops[target](sinr=torch.tensor(grid)[:, :, None, :], mcs_table_index=table, mcs_category=PDSCH)
        grid_cases.append({"table": table, "bler_target": target, "sinr": grid, "mcs": int(mcs[0])})
    return {"how": "InnerLoopLinkAdaptation(PHYAbstraction(), bler_target)(...)", "cases": cases, "grid_cases": grid_cases}


def olla(rng, runs, num_slots, phy):
    result = []
    for _ in range(runs):
        run = {"table": rng.randint(1, 2), "num_ut": rng.randint(2, 5), "bler_target": rng.choice([0.1, 0.05, 0.2]),
               "delta_up": rng.choice([1.0, 0.2]), "offset_min": -20.0, "offset_max": 20.0, "sinr_eff_init": 1.0}
        loop = OuterLoopLinkAdaptation(phy, run["num_ut"], run["bler_target"], run["delta_up"])
        run["delta_down"], run["slots"], users = loop.delta_down, [], range(run["num_ut"])
        for _ in range(num_slots):
            slot = {"num_re": [rng.choice([0, rng.randint(50, 5000)]) for _ in users],
                    "harq": [rng.choice([-1, 0, 1, 1, 1]) for _ in users],
                    "sinr_eff": [rng.choice([0.0, single(10 ** (rng.uniform(-3, 25) / 10))]) for _ in users]}
            mcs = loop(num_allocated_re=torch.tensor(slot["num_re"]), harq_feedback=torch.tensor(slot["harq"]),
                       sinr_eff=torch.tensor(slot["sinr_eff"]), mcs_table_index=run["table"], mcs_category=PDSCH)
            slot.update(mcs=[int(m) for m in mcs], offset_db=[float(o) for o in loop.offset],
                        sinr_db_last=[float(s) for s in loop.sinr_eff_db_last])
            run["slots"].append(slot)
        result.append(run)
    return {"how": "OuterLoopLinkAdaptation(PHYAbstraction(), num_ut, bler_target, delta_up), called once per slot", "runs": result}


def pf(rng, num_slots):
    runs = []
    for beta, num_ut, num_freq_res in ((0.98, 6, 12), (0.9, 10, 25)):
        scheduler, last = PFSchedulerSUMIMO(num_ut, num_freq_res, 1, beta=beta), [0.0] * num_ut
        run = {"beta": beta, "num_ut": num_ut, "num_freq_res": num_freq_res, "slots": []}
        for _ in range(num_slots):
            rate = [[single(rng.expovariate(1 / (1 + u))) for u in range(num_ut)] for _ in range(num_freq_res)]
            scheduled = scheduler(torch.tensor(last), torch.tensor(rate)[None])[0, :, :, 0]
            chosen = [int(row.to(torch.int32).argmax()) for row in scheduled]
            run["slots"].append({"rate_last": last, "rate": rate, "ue": chosen,
                                 "average": [float(a) for a in scheduler.rate_achieved_past]})
            last = [single(sum(rate[f][u] for f in range(num_freq_res) if chosen[f] == u)) for u in range(num_ut)]
        runs.append(run)
    tie = PFSchedulerSUMIMO(3, 2, 1)(torch.zeros(3), torch.ones(1, 2, 3))[0, :, :, 0]
    return {"how": "PFSchedulerSUMIMO(num_ut, num_freq_res, 1, beta=beta)(rate_last, rate)", "runs": runs,
            "tie": {"num_ut": 3, "rate_last": [0.0] * 3, "rate": [[1.0] * 3] * 2,
                    "ue": [int(row.to(torch.int32).argmax()) for row in tie]}}


def power_problem(rng):
    num_ut = rng.choice([1, 2, 3, 5, 8])
    return {"pathloss": [single(10 ** rng.uniform(8, 12)) for _ in range(num_ut)],
            "interference_plus_noise": 10 ** rng.uniform(-13, -10),
            "num_re": [rng.choice([1, rng.randint(1, 60)]) if u == 0 or rng.random() > 0.2 else 0 for u in range(num_ut)],
            "bs_max_power_dbm": rng.choice([30.0, 40.0, 46.0, 56.0]),
            "guaranteed_power_ratio": rng.choice([0.0, 0.2, 0.5, 0.9]), "fairness": rng.choice([0.0, 0.5, 1.0, 2.0, 5.0])}


def power(rng, count):
    cases = []
    while len(cases) < count:
        c = power_problem(rng)
        try:
            watts, utility, mu_inv = downlink_fair_power_control(
                torch.tensor(c["pathloss"], dtype=torch.float64), interference_plus_noise=c["interference_plus_noise"],
                num_allocated_re=torch.tensor(c["num_re"]), bs_max_power_dbm=c["bs_max_power_dbm"],
                guaranteed_power_ratio=c["guaranteed_power_ratio"], fairness=c["fairness"], return_lagrangian=True,
                precision="double", eps_x=1e-13, eps_y=1e-11, max_n_iter=400)
        except RuntimeError:  # one user: rounding can keep Sionna from bracketing the multiplier
            continue
        c.update(tx_power_w_tight=watts.tolist(), utility_tight=utility.tolist(), mu_inv_tight=value(mu_inv))
        cases.append(c)
    return {"how": "downlink_fair_power_control(..., precision='double', eps_x=1e-13, eps_y=1e-11, max_n_iter=400)",
            "cases": cases}


def cfr(rng, count):
    cases = []
    for i in range(count):
        num_paths, num_times, num_subcarriers = rng.randint(1, 8), rng.randint(1, 3), rng.choice([7, 24, 49])
        spacing = rng.choice([15e3, 30e3, 60e3])
        a = torch.complex(torch.tensor([[rng.gauss(0, 1e-5) for _ in range(num_times)] for _ in range(num_paths)]),
                          torch.tensor([[rng.gauss(0, 1e-5) for _ in range(num_times)] for _ in range(num_paths)]))
        tau = torch.tensor([rng.uniform(0, 2e-6) for _ in range(num_paths)])
        frequencies = subcarrier_frequencies(num_subcarriers, spacing)
        h = cir_to_ofdm_channel(frequencies, a[None, None, None, None, None], tau[None, None, None], normalize=i % 2 == 1)
        h = h[0, 0, 0, 0, 0]
        cases.append({"num_subcarriers": num_subcarriers, "subcarrier_spacing": spacing, "normalize": i % 2 == 1,
                      "frequencies": [float(f) for f in frequencies], "a_re": a.real.tolist(), "a_im": a.imag.tolist(),
                      "tau": [float(t) for t in tau], "h_re": h.real.tolist(), "h_im": h.imag.tolist()})
    return {"how": "cir_to_ofdm_channel(subcarrier_frequencies(num_subcarriers, spacing), a, tau, normalize=)", "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="number of cases relative to the bundled file")
    arguments = parser.parse_args()
    rng, phy = random.Random(arguments.seed), PHYAbstraction()
    config.seed = arguments.seed
    count = lambda n: max(1, round(n * arguments.scale))
    content = {
        "meta": {"what": "Sionna SYS reference results", "sionna": version("sionna-no-rt"), "torch": version("torch"),
                 "precision": "single", "seed": arguments.seed, "format": 1, "mcs_category": "1 = PDSCH everywhere"},
        "mcs_tables": mcs_tables(), "tbs": tbs(rng, count(120)), "eesm": eesm(rng, count(200), phy),
        "phy": phy_cases(rng, count(400), phy), "illa": illa(rng, count(400), count(50), phy),
        "olla": olla(rng, 3, count(300), phy), "pf": pf(rng, count(50)), "power": power(rng, count(60)), "cfr": cfr(rng, 8)}
    with open(arguments.out, "w", encoding="utf-8") as file:
        json.dump(content, file)
    print(f"{arguments.out}: Sionna {content['meta']['sionna']}, seed {arguments.seed}")


if __name__ == "__main__":
    main()

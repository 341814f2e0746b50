#!/usr/bin/env python3
"""Makes channel traces with Sionna 2.2: 3GPP TR 38.901 (UMi, UMa, RMa) and ray tracing with moving users.

Needs the packages of scripts/requirements/sionna.txt. The files have the layout of docs/traces.md. Examples:

    scripts/make_traces.py --preset bundled                  # data/traces/umi-{train,val,heldout}.h5
    scripts/make_traces.py --preset figures                  # data/generated/..., what the learning figures use
    scripts/make_traces.py --preset canyon                   # ray tracing; held-out drops come from another scene
    scripts/make_traces.py --model uma --drops 8 --slots 500 --split heldout --out my-trace.h5
    scripts/make_traces.py --model rt --scene munich --drops 2 --slots 200 --out munich.h5

Seeds: every drop has a seed of its own, made of split, seed and number, so the splits (train, val, heldout, test) never
share a drop, and a drop is the same whatever else is in the file. A finished file is not made again (--force does).
"""
import argparse
import glob
import os
import pathlib
import sys
import time

try:
    import numpy as np
except ModuleNotFoundError:
    sys.exit("make_traces: needs the packages of scripts/requirements/sionna.txt (pip install -r ...); with a virtual "
             "environment, call this script by that environment's python")

SPLITS = {"train": 1, "val": 2, "heldout": 3, "test": 4}
SUBCARRIER_SPACING = 30e3
LIGHT_SPEED = 299792458.0
ROOT = pathlib.Path(__file__).resolve().parent.parent

# Options of each file of a preset; what is not named keeps its default.
PRESETS = {
    "bundled": [
        dict(out="data/traces/umi-train.h5", model="umi", split="train", drops=6, slots=1000, mantissa_bits=8),
        dict(out="data/traces/umi-val.h5", model="umi", split="val", drops=4, slots=250, mantissa_bits=8),
        dict(out="data/traces/umi-heldout.h5", model="umi", split="heldout", drops=32, slots=125, mantissa_bits=8),
    ],
    "figures": [
        dict(out=f"data/generated/{model}-{name}.h5", model=model, split=split, seed=seed, drops=drops, slots=slots)
        for model in ("umi", "uma")
        for name, split, seed, drops, slots in (("train-full", "train", 1, 24, 1000), ("val-full", "val", 1, 8, 1000),
                                                ("test", "test", 3, 64, 500))
    ],
    "canyon": [
        dict(out="data/generated/canyon-train.h5", model="rt", split="train", drops=4, slots=1000,
             scene="simple_street_canyon"),
        dict(out="data/generated/canyon-heldout.h5", model="rt", split="heldout", drops=32, slots=100, scene="etoile"),
    ],
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), help="make this set of files; other options override it")
    parser.add_argument("--out", help="file to write")
    parser.add_argument("--model", choices=["umi", "uma", "rma", "rt"], help="38.901 scenario, or rt: ray tracing")
    parser.add_argument("--scene", help="scene of sionna.rt.scene for --model rt")
    parser.add_argument("--split", choices=sorted(SPLITS), help="keeps the seeds of training and held-out files apart")
    parser.add_argument("--seed", type=int, help="seed within the split")
    parser.add_argument("--drops", type=int, help="independent drops")
    parser.add_argument("--slots", type=int, help="slots of 0.5 ms per drop")
    parser.add_argument("--users", type=int, help="users in the cell")
    parser.add_argument("--prb", type=int, help="resource blocks noted in the file")
    parser.add_argument("--carrier-frequency", type=float, help="Hz")
    parser.add_argument("--indoor", type=float, help="share of indoor users (38.901)")
    parser.add_argument("--min-speed", type=float, help="m/s")
    parser.add_argument("--max-speed", type=float, help="m/s, outdoors; indoor users walk at 1 to 2 m/s")
    parser.add_argument("--mantissa-bits", type=int, help="of each float32, rounded to nearest; fewer compress better")
    parser.add_argument("--trace-every", type=int, help="slots between two ray tracings; Doppler fills in (rt)")
    parser.add_argument("--max-paths", type=int, help="strongest paths kept per link (rt)")
    parser.add_argument("--max-depth", type=int, help="reflections per path (rt)")
    parser.add_argument("--samples-per-src", type=int, help="rays shot per source (rt)")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0: as many as there are")
    parser.add_argument("--force", action="store_true", help="make files again that are there")
    return parser.parse_args()


DEFAULTS = dict(out=None, model="umi", scene="simple_street_canyon", split="train", seed=1, drops=4, slots=1000, users=10,
                prb=51, carrier_frequency=3.5e9, indoor=0.5, min_speed=1.0, max_speed=15.0, mantissa_bits=10,
                trace_every=10, max_paths=24, max_depth=3, samples_per_src=100_000)


def jobs_of(arguments):
    given = {key: value for key, value in vars(arguments).items() if key in DEFAULTS and value is not None}
    if arguments.preset:
        if "out" in given:
            sys.exit("make_traces: --preset names its files itself; leave out --out")
        return [{**DEFAULTS, **entry, **given, "out": str(ROOT / entry["out"])} for entry in PRESETS[arguments.preset]]
    if not arguments.out:
        sys.exit("make_traces: give --out FILE or --preset NAME (see --help)")
    return [{**DEFAULTS, **given}]


def drop_seed(job, drop):
    return SPLITS[job["split"]] * 100_000_000 + job["seed"] * 100_000 + drop


class Progress:
    """One line on a terminal, a line every tenth elsewhere."""

    def __init__(self, name, total):
        self.name, self.total, self.start, self.shown = name, total, time.monotonic(), -1
        self.update(0)

    def update(self, done):
        spent = time.monotonic() - self.start
        left = f", {spent / done * (self.total - done):.0f} s left" if 0 < done < self.total else ""
        line = f"{self.name}: {done}/{self.total}{left}"
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="\n" if done == self.total else "", file=sys.stderr, flush=True)
        elif done * 10 // self.total > self.shown:
            self.shown = done * 10 // self.total
            print(line, file=sys.stderr, flush=True)


def round_mantissa(values, bits):
    """Float32 rounded to `bits` explicit bits of mantissa, to nearest; the zeros behind them compress away."""
    if bits >= 23:
        return np.ascontiguousarray(values, np.float32)
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    cut = 23 - bits
    rounded = (words + np.uint32(1 << (cut - 1))) & np.uint32(0xFFFFFFFF ^ ((1 << cut) - 1))
    return rounded.view(np.float32)


def round_complex(values, bits):
    values = np.ascontiguousarray(values, np.complex64)
    return round_mantissa(values.view(np.float32), bits).view(np.complex64)


def common_attributes(job):
    slot_duration = 1e-3 * 15e3 / SUBCARRIER_SPACING
    return dict(format_version=1, carrier_frequency=job["carrier_frequency"], subcarrier_spacing=SUBCARRIER_SPACING,
                num_prb=job["prb"], sampling_frequency=1 / slot_duration, slot_duration=slot_duration, direction="downlink",
                seed=job["seed"], split=job["split"], first_drop_seed=drop_seed(job, 0), mantissa_bits=job["mantissa_bits"],
                min_ut_speed=job["min_speed"], max_ut_speed=job["max_speed"])


def write_file(job, arrays, attributes, chunks):
    """Writes beside and renames, so that a file is there whole or not at all."""
    import h5py
    out = pathlib.Path(job["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    with h5py.File(part, "w") as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():
            packing = dict(chunks=chunks[name], shuffle=True, compression="gzip", compression_opts=9) if name in chunks else {}
            file.create_dataset(name, data=array, **packing)
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, out)
    print(f"{out}: {out.stat().st_size / 2**20:.2f} MiB, {job['drops']} drops of {job['slots']} slots", file=sys.stderr)


# ---- 3GPP TR 38.901 ----


def statistical_model(job):
    from sionna.phy.channel.tr38901 import PanelArray, RMa, UMa, UMi
    carrier = job["carrier_frequency"]

    def antenna(pattern):
        return PanelArray(num_rows_per_panel=1, num_cols_per_panel=1, polarization="single", polarization_type="V",
                          antenna_pattern=pattern, carrier_frequency=carrier)

    kind = {"umi": UMi, "uma": UMa, "rma": RMa}[job["model"]]
    more = {} if job["model"] == "rma" else {"o2i_model": "low"}
    return kind(carrier_frequency=carrier, ut_array=antenna("omni"), bs_array=antenna("38.901"), direction="downlink", **more)


def walk_indoors(velocities, indoor, rng):
    """Indoor users keep their direction and walk at 1 to 2 m/s."""
    speed = np.linalg.norm(velocities, axis=-1, keepdims=True)
    walking = velocities / np.maximum(speed, 1e-9) * rng.uniform(1.0, 2.0, speed.shape)
    return np.where(indoor[..., None], walking, velocities).astype(np.float32)


def statistical_drop(job, drop, model):
    import sionna.phy
    import torch
    from sionna.phy.channel.utils import gen_single_sector_topology
    sionna.phy.config.seed = drop_seed(job, drop)
    rng = np.random.default_rng(drop_seed(job, drop))
    topology = list(gen_single_sector_topology(batch_size=1, num_ut=job["users"], scenario=job["model"],
                                               indoor_probability=job["indoor"], min_ut_velocity=job["min_speed"],
                                               max_ut_velocity=job["max_speed"]))
    # Copies: the model writes later topologies into the tensors of the first one.
    users, stations, velocities, indoor = (topology[i].cpu().numpy().copy() for i in (0, 1, 4, 5))
    velocities = walk_indoors(velocities, indoor.astype(bool), rng)
    topology[4] = torch.tensor(velocities, dtype=topology[4].dtype, device=topology[4].device)
    model.set_topology(*topology)
    attributes = common_attributes(job)
    a, tau = model(num_time_samples=job["slots"], sampling_frequency=attributes["sampling_frequency"])
    a, tau = a.cpu().numpy().copy(), tau.cpu().numpy().copy()
    used = np.any(a != 0, axis=(2, 4, 6))
    tau = np.where(used, tau, 0.0)   # unused clusters come back with delays of seconds
    los = model._scenario.los.cpu().numpy().reshape(1, 1, job["users"])[:, 0, :, None] & ~indoor.astype(bool)[..., None]
    return dict(a=round_complex(a, job["mantissa_bits"]), tau=tau.astype(np.float32), los=los.astype(np.uint8),
                indoor=indoor.astype(np.uint8), rx_position=users.astype(np.float32), rx_velocity=velocities,
                tx_position=stations.astype(np.float32))


def make_statistical(job):
    model = statistical_model(job)
    progress = Progress(pathlib.Path(job["out"]).name, job["drops"])
    parts = []
    for drop in range(job["drops"]):
        parts.append(statistical_drop(job, drop, model))
        progress.update(drop + 1)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    attributes = {**common_attributes(job), "axis0": "episode", "scene": job["model"], "normalize_delays": True,
                  "generator": "sionna-no-rt 2.2.0 TR 38.901", "indoor_probability": job["indoor"],
                  "bs_antenna_pattern": "38.901", "ut_antenna_pattern": "omni",
                  "los_meaning": "1 when the link has a line-of-sight path (never for indoor users)"}
    write_file(job, arrays, attributes, {"a": (1, *arrays["a"].shape[1:]), "tau": (1, *arrays["tau"].shape[1:])})


# ---- Ray tracing ----

RECEIVERS_PER_SOLVE = 200      # more lose paths to hash collisions
SPECULAR_TABLE_SIZE = int(1e8)  # likewise: the default of 1e6 drops paths at random
USER_HEIGHT = 1.5
STATION_HEIGHT = 20.0


def find_llvm():
    """Dr.Jit needs LLVM 16 or newer; Debian's default is older and aborts."""
    if os.environ.get("DRJIT_LIBLLVM_PATH"):
        return
    found = []
    for pattern in ("/usr/lib/*/libLLVM.so.*", "/usr/lib/*/libLLVM-*.so", "/usr/lib/llvm-*/lib/libLLVM*.so*"):
        for path in glob.glob(pattern):
            digits = "".join(c if c.isdigit() else " " for c in pathlib.Path(path).name).split()
            if digits and int(digits[0]) >= 16:
                found.append((int(digits[0]), path))
    if not found:
        sys.exit("make_traces: ray tracing needs LLVM 16 or newer (Debian 12: apt-get install libllvm19), "
                 "or DRJIT_LIBLLVM_PATH naming the library")
    os.environ["DRJIT_LIBLLVM_PATH"] = max(found)[1]


def load_scene(job):
    find_llvm()
    import sionna.rt
    from sionna.rt.path_solvers.sb_candidate_generator import SBCandidateGenerator
    SBCandidateGenerator.MIN_SPEC_COUNT_SIZE = SPECULAR_TABLE_SIZE
    if not hasattr(sionna.rt.scene, job["scene"]):
        sys.exit(f"make_traces: sionna.rt.scene has no '{job['scene']}'")
    scene = sionna.rt.load_scene(getattr(sionna.rt.scene, job["scene"]))
    scene.frequency = job["carrier_frequency"]
    scene.bandwidth = 12 * job["prb"] * SUBCARRIER_SPACING
    scene.tx_array = sionna.rt.PlanarArray(num_rows=1, num_cols=1, pattern="tr38901", polarization="V")
    scene.rx_array = sionna.rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    return scene


def is_open_air(scene, points):
    """No roof above: a ray straight up from each point meets nothing."""
    import mitsuba as mi
    origins = mi.Point3f(*(mi.Float(np.ascontiguousarray(points[:, k], np.float32)) for k in range(3)))
    return ~np.array(scene.mi_scene.ray_test(mi.Ray3f(origins, mi.Vector3f(0, 0, 1))), dtype=bool)


def random_tracks(job, scene, rng, centre, radius=120.0):
    """Start and velocity of each user: a straight walk in the open that leaves no street within the drop."""
    seconds = job["slots"] * common_attributes(job)["slot_duration"]
    starts, velocities = [], []
    for _ in range(1000):
        if len(starts) >= job["users"]:
            break
        count = 64
        angle, distance = rng.uniform(0, 2 * np.pi, count), radius * np.sqrt(rng.uniform(0, 1, count))
        start = np.stack([centre[0] + distance * np.cos(angle), centre[1] + distance * np.sin(angle),
                          np.full(count, USER_HEIGHT)], axis=1)
        heading, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(job["min_speed"], job["max_speed"], count)
        velocity = np.stack([speed * np.cos(heading), speed * np.sin(heading), np.zeros(count)], axis=1)
        clear = np.all([is_open_air(scene, start + velocity * seconds * share) for share in np.linspace(0, 1, 9)], axis=0)
        starts.extend(start[clear])
        velocities.extend(velocity[clear])
    if len(starts) < job["users"]:
        sys.exit(f"make_traces: no room for {job['users']} users around the station in scene '{job['scene']}'")
    return np.array(starts[:job["users"]]), np.array(velocities[:job["users"]])


def place_station(scene, rng):
    """A mast over a random open spot near the middle of the scene."""
    box = scene.mi_scene.bbox()
    low, high = np.array(box.min).ravel(), np.array(box.max).ravel()
    middle, reach = (low + high) / 2, 0.25 * (high - low)
    for _ in range(10000):
        spot = np.array([[rng.uniform(middle[0] - reach[0], middle[0] + reach[0]),
                          rng.uniform(middle[1] - reach[1], middle[1] + reach[1]), STATION_HEIGHT]])
        if is_open_air(scene, spot)[0]:
            return spot[0]
    return sys.exit("make_traces: no open spot for the station in this scene")


def strongest_paths(a, tau, keep):
    """The `keep` strongest paths of each receiver; a [rx, paths, time], tau [rx, paths]; missing ones get tau = -1."""
    power = np.where(tau >= 0, np.sum(np.abs(a) ** 2, axis=-1), -1.0)
    order = np.argsort(-power, axis=-1, kind="stable")[:, :keep]
    a = np.take_along_axis(a, order[..., None], axis=1)
    tau = np.take_along_axis(tau, order, axis=1)
    missing = np.take_along_axis(power, order, axis=1) <= 0
    a, tau = np.where(missing[..., None], 0, a), np.where(missing, -1.0, tau)
    short = keep - a.shape[1]
    if short > 0:
        a = np.pad(a, ((0, 0), (0, short), (0, 0)))
        tau = np.pad(tau, ((0, 0), (0, short)), constant_values=-1.0)
    return a, tau


def trace_receivers(job, scene, solver, positions, velocities, seed):
    """Paths of up to RECEIVERS_PER_SOLVE receivers over the slots until the next tracing: a [rx, P, slots], tau [rx, P]."""
    import sionna.rt
    for index, (position, velocity) in enumerate(zip(positions, velocities)):
        scene.add(sionna.rt.Receiver(f"rx{index}", position=[float(x) for x in position],
                                     velocity=[float(x) for x in velocity]))
    paths = solver(scene, max_depth=job["max_depth"], samples_per_src=job["samples_per_src"], synthetic_array=True,
                   refraction=False, diffraction=True, seed=seed)
    a, tau = paths.cir(sampling_frequency=common_attributes(job)["sampling_frequency"], num_time_steps=job["trace_every"],
                       normalize_delays=False, out_type="numpy")
    for index in range(len(positions)):
        scene.remove(f"rx{index}")
    return strongest_paths(a[:, 0, 0, 0], tau[:, 0], job["max_paths"])


def traced_drop(job, drop, scene, progress):
    import sionna.rt
    rng = np.random.default_rng(drop_seed(job, drop))
    station = place_station(scene, rng)
    starts, velocities = random_tracks(job, scene, rng, station)
    scene.add(sionna.rt.Transmitter("station", position=[float(x) for x in station]))
    slot_duration = common_attributes(job)["slot_duration"]
    users, every = job["users"], job["trace_every"]
    slots_traced = np.arange(0, job["slots"], every)
    solver = sionna.rt.PathSolver()
    at_once = max(1, RECEIVERS_PER_SOLVE // users)
    a = np.zeros((len(slots_traced) * every, users, job["max_paths"]), np.complex64)
    tau = np.full(a.shape, -1.0, np.float32)
    for first in range(0, len(slots_traced), at_once):
        slots = slots_traced[first:first + at_once]
        positions = (starts[None] + velocities[None] * (slots * slot_duration)[:, None, None]).reshape(-1, 3)
        got_a, got_tau = trace_receivers(job, scene, solver, positions, np.tile(velocities, (len(slots), 1)), job["seed"])
        for group, slot in enumerate(slots):
            rows = slice(group * users, (group + 1) * users)
            a[slot:slot + every] = np.moveaxis(got_a[rows], -1, 0)
            tau[slot:slot + every] = got_tau[rows]
        progress.update(drop * len(slots_traced) + min(first + at_once, len(slots_traced)))
    scene.remove("station")
    a, tau = a[:job["slots"]], tau[:job["slots"]]
    time_s = np.arange(job["slots"]) * slot_duration
    return dict(a=round_complex(a, job["mantissa_bits"])[:, :, None, None, None, :, None], tau=tau[:, :, None, :],
                time=time_s, drop=np.full(job["slots"], drop, np.int32),
                rx_position=(starts[None] + velocities[None] * time_s[:, None, None]).astype(np.float32),
                rx_velocity=np.tile(velocities[None], (job["slots"], 1, 1)).astype(np.float32),
                tx_position=np.tile(station, (job["slots"], 1, 1)).astype(np.float32))


def make_traced(job):
    scene = load_scene(job)
    progress = Progress(pathlib.Path(job["out"]).name, job["drops"] * -(-job["slots"] // job["trace_every"]))
    parts = [traced_drop(job, drop, scene, progress) for drop in range(job["drops"])]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    attributes = {**common_attributes(job), "axis0": "slot", "slots_per_drop": job["slots"], "scene": job["scene"],
                  "normalize_delays": False, "generator": "sionna-rt 2.2.0 PathSolver", "max_depth": job["max_depth"],
                  "samples_per_src": job["samples_per_src"], "diffraction": True, "refraction": False,
                  "trace_every": job["trace_every"], "bs_antenna_pattern": "tr38901", "ut_antenna_pattern": "iso"}
    rows = min(20, job["slots"])
    write_file(job, arrays, attributes, {name: (rows, *arrays[name].shape[1:])
                                         for name in ("a", "tau", "rx_position", "rx_velocity", "tx_position")})


def main():
    arguments = parse_arguments()
    jobs = jobs_of(arguments)
    if arguments.threads and any(job["model"] != "rt" for job in jobs):
        import torch
        torch.set_num_threads(arguments.threads)
    for job in jobs:
        if os.path.exists(job["out"]) and not arguments.force:
            print(f"{job['out']}: is there already (--force makes it again)", file=sys.stderr)
        elif job["model"] == "rt":
            make_traced(job)
        else:
            make_statistical(job)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

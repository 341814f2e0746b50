#!/usr/bin/env python3
"""Converts the BLER and EESM tables of an installed Sionna into data/link/bler_tables.bin (layout: data/link/README.md).

Needs only the Python standard library and the files of the package `sionna-no-rt`; Sionna itself is not imported.

    pip install --no-deps --target DIR sionna-no-rt==2.2.0
    scripts/make_bler_tables.py --sionna DIR/sionna

Nothing is fitted or resampled: the probabilities are stored in single precision, which is how Sionna simulated them, and
the script checks that this loses nothing.
"""

import argparse
import importlib.util
import json
import pathlib
import struct
import sys

MAGIC = b"TTBLER01"
TABLES = ["PUSCH_table1", "PUSCH_table2", "PDSCH_table1", "PDSCH_table2", "PDSCH_table3", "PDSCH_table4"]


def sionna_folder(given):
    if given:
        return pathlib.Path(given)
    spec = importlib.util.find_spec("sionna")
    if spec is None:
        sys.exit("Sionna is not installed here: pip install --no-deps sionna-no-rt==2.2.0, or give --sionna FOLDER")
    return pathlib.Path(spec.submodule_search_locations[0])


def single(value, where):
    """The value as four bytes; a value that single precision cannot hold to 1e-7 is refused."""
    packed = struct.pack("<f", value)
    if abs(struct.unpack("<f", packed)[0] - value) > 1e-7 * max(abs(value), 1e-30):
        sys.exit(f"{where}: {value!r} does not fit single precision")
    return packed


def bler_group(category, table, by_mcs):
    """One (category, MCS table): a regular block [MCS][code block size][SNR]."""
    where = f"category {category} table {table}"
    indices = sorted(int(m) for m in by_mcs)
    if indices != list(range(indices[0], indices[-1] + 1)):
        sys.exit(f"{where}: MCS indices have gaps: {indices}")
    first = by_mcs[str(indices[0])]
    sizes = [int(s) for s in first["CBS"]]
    snr_db = [float(x) for x in first["SNR_db"]]
    out = struct.pack("<6i", category, table, indices[0], len(indices), len(sizes), len(snr_db))
    out += struct.pack(f"<{len(sizes)}i", *sizes) + struct.pack(f"<{len(snr_db)}d", *snr_db)
    for m in indices:
        entry = by_mcs[str(m)]
        if [int(s) for s in entry["CBS"]] != sizes or [float(x) for x in entry["SNR_db"]] != snr_db:
            sys.exit(f"{where} MCS {m}: grid differs from MCS {indices[0]}'s")
        for size in sizes:
            curve = entry["CBS"][str(size)]["BLER"]
            if len(curve) != len(snr_db) or not all(0 <= p <= 1 for p in curve):
                sys.exit(f"{where} MCS {m} CBS {size}: not {len(snr_db)} probabilities")
            out += b"".join(single(p, where) for p in curve)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sionna", help="folder of the package `sionna` (default: the installed one)")
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", default=str(root / "data/link/bler_tables.bin"))
    arguments = parser.parse_args()

    system = sionna_folder(arguments.sionna) / "sys"
    groups = []
    for name in TABLES:
        content = json.loads((system / "bler_tables" / f"{name}.json").read_text())
        for category, tables in content["category"].items():
            for table, body in tables["index"].items():
                groups.append(bler_group(int(category), int(table), body["MCS"]))
    betas = json.loads((system / "esm_params" / "eesm_beta_table.json").read_text())["index"]

    data = MAGIC + struct.pack("<2i", len(groups), len(betas)) + b"".join(groups)
    for table, values in sorted(betas.items(), key=lambda item: int(item[0])):
        data += struct.pack("<2i", int(table), len(values)) + struct.pack(f"<{len(values)}d", *values)
    pathlib.Path(arguments.out).write_bytes(data)
    (root / "domain/radio/bler_tables.cpp").touch()  # it includes the file, which the build does not see
    print(f"{arguments.out}: {len(data)} bytes, {len(groups)} BLER groups, {len(betas)} EESM tables")


if __name__ == "__main__":
    main()

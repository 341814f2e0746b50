"""Token commitment by an exported trimtab controller, as a decoding strategy of SGLang's framework for diffusion language models.

A pass of the model proposes a token for every mask of a block; the controller says for each how likely it is to be right to commit it now.
The file stands alone: copied to sglang/srt/dllm/algorithm/ it is found by name (--dllm-algorithm TrimtabCommit). Without SGLang a small base
class stands in, so that it can be used and tested anywhere. No packages; tensors are used where logits come as tensors.

Features are those of envs/token_commit/features.h, a block being an answer of its own: what stands before its first mask is the prompt.
"""
import ctypes
import math
import os
import re

try:
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm
except ImportError:
    class DllmAlgorithm:
        """What this file needs of the framework's base class: passes until every block is done. `forward_batch.input_ids` holds the blocks one
        after the other, `model_runner.forward` gives one row of logits for each position."""

        def __init__(self, config):
            self.block_size, self.mask_id = config.block_size, config.mask_id

        def run(self, model_runner, forward_batch, algo_states=None):
            starts = [ids.index(self.mask_id) if self.mask_id in ids else len(ids) for ids in _blocks(forward_batch.input_ids, self.block_size)]
            states = self.init_step_state(forward_batch)
            done = [False]
            while not all(done):   # the last pass computes keys and values of the last tokens
                out = model_runner.forward(forward_batch, pp_proxy_tensors=None)
                done = self.step(forward_batch, out.logits_output.full_logits, states)
            tokens = [ids[start:] for ids, start in zip(_blocks(forward_batch.input_ids, self.block_size), starts)]
            return out.logits_output, tokens, None, None, out.can_run_graph


# ---- the runtime (runtime/include/trimtab/runtime.h) ----

_OK, _BAD_ARGUMENT = 0, 1
_ABI_VERSION = 1
_SUBSET = 3


class _OpenOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("abi_version", ctypes.c_uint32), ("max_items", ctypes.c_int), ("run_self_test", ctypes.c_int),
                ("deadline_us", ctypes.c_double)]


class _AgentInfo(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("name", ctypes.c_char_p), ("num_context", ctypes.c_int), ("num_item", ctypes.c_int),
                ("trained_items", ctypes.c_int), ("max_items", ctypes.c_int), ("action", ctypes.c_int), ("action_size", ctypes.c_int),
                ("low", ctypes.c_float), ("high", ctypes.c_float), ("meaning", ctypes.c_char_p), ("deadline_us", ctypes.c_double)]


class _Feature(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("name", ctypes.c_char_p), ("unit", ctypes.c_char_p), ("low", ctypes.c_float),
                ("high", ctypes.c_float)]


class _Counters(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("calls", ctypes.c_uint64), ("fallbacks", ctypes.c_uint64), ("bad_inputs", ctypes.c_uint64),
                ("out_of_range", ctypes.c_uint64), ("deadline_misses", ctypes.c_uint64)]


def _load_runtime(library):
    path = os.fspath(library) if library else os.environ.get("TRIMTAB_RUNTIME", "libtrimtab_runtime.so")
    try:
        runtime = ctypes.CDLL(path)
    except OSError as error:
        raise ValueError(f"the runtime cannot be loaded: {error}. Name libtrimtab_runtime.so by `library` or the environment variable "
                         "TRIMTAB_RUNTIME") from error
    runtime.tt_abi_version.restype = ctypes.c_uint32
    version = runtime.tt_abi_version()
    if version != _ABI_VERSION:
        raise ValueError(f"{path}: version {version} of the runtime's interface; this file is written for {_ABI_VERSION}")
    pointer, integer, floats = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_float)
    runtime.tt_open.argtypes = [ctypes.c_char_p, ctypes.POINTER(_OpenOptions), ctypes.POINTER(pointer), ctypes.c_char_p, ctypes.c_size_t]
    runtime.tt_close.argtypes, runtime.tt_close.restype = [pointer], None
    runtime.tt_num_agents.argtypes = [pointer]
    runtime.tt_get_agent_info.argtypes = [pointer, integer, ctypes.POINTER(_AgentInfo)]
    runtime.tt_get_feature.argtypes = [pointer, integer, integer, integer, ctypes.POINTER(_Feature)]
    runtime.tt_get_text.argtypes, runtime.tt_get_text.restype = [pointer, ctypes.c_char_p], ctypes.c_char_p
    runtime.tt_decide.argtypes = [pointer, integer, floats, floats, ctypes.c_char_p, integer, floats]
    runtime.tt_get_counters.argtypes = [pointer, ctypes.POINTER(_Counters)]
    return runtime


# ---- a block and what its last pass says of it ----

_NEVER = -1e30   # a logit: exp of it is 0, and it is finite


def _is_tensor(rows):
    return hasattr(rows, "log_softmax")


def _rows_at(rows, places):
    return rows[places] if _is_tensor(rows) else [rows[i] for i in places]


def _blocks(ids, size):
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    return [ids[i:i + size] for i in range(0, len(ids), size)]


def _measure(rows, mask_id, before):
    """Of each row of logits the likeliest token but the mask, its probability, the margin to the next, the entropy, and the divergence KL from
    `before` (ln p of the pass before; None: 0), in nats; and ln p of the rows."""
    numbers, logs = [], []
    for i, row in enumerate(rows):
        row = list(row)
        if 0 <= mask_id < len(row):
            row[mask_id] = _NEVER
        top = max(row)
        token = row.index(top)
        log_sum = math.log(math.fsum(math.exp(x - top) for x in row))
        log_p = [x - top - log_sum for x in row]
        p = [math.exp(x) for x in log_p]
        other = max(p[:token] + p[token + 1:], default=0.0)
        drift = 0.0 if before is None else sum(q * (now - then) for q, now, then in zip(p, log_p, before[i]))
        numbers.append((token, p[token], p[token] - other, max(0.0, -sum(q * x for q, x in zip(p, log_p))), max(0.0, drift)))
        logs.append(log_p)
    return numbers, logs


def _measure_tensor(rows, mask_id, before):
    """The same on the tensor's device; one transfer of five numbers a row."""
    logits = rows.float().clone()
    if 0 <= mask_id < logits.shape[-1]:
        logits[:, mask_id] = _NEVER
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    best = p.topk(min(2, p.shape[-1]), -1)
    out = p.new_zeros(5, p.shape[0])
    out[0], out[1] = best.indices[:, 0], best.values[:, 0]
    out[2] = best.values[:, 0] - best.values[:, 1] if best.values.shape[-1] > 1 else best.values[:, 0]
    out[3] = -(p * log_p).sum(-1)
    if before is not None:
        out[4] = (p * (log_p - before)).sum(-1)
    numbers = [(int(token), confidence, margin, max(0.0, entropy), max(0.0, drift)) for token, confidence, margin, entropy, drift in zip(*out.tolist())]
    return numbers, log_p


class Proposal:
    """What a pass says of a position that is still masked; positions count from 0 at the answer's first token."""
    __slots__ = ("position", "token", "confidence", "margin", "entropy", "drift", "held", "ends", "waits", "left", "right")


class Answer:
    """A block's tokens from its first mask on. A pass is look(), then commit()."""

    def __init__(self, tokens, eos_ids=(), planned_passes=0, keeps_distributions=True):
        self.tokens = list(tokens)        # -1 where masked
        self.eos_ids = frozenset(eos_ids)
        self.planned_passes = planned_passes
        self.keeps_distributions = keeps_distributions   # from pass to pass, for `drift`: positions x vocabulary numbers
        self.ending = next((p for p, token in enumerate(self.tokens) if token in self.eos_ids), -1)   # leftmost that is committed
        self.passes = self.forced = 0     # forced: passes whose commit the controller did not choose
        self.masked = []                  # proposals of the last pass, by rising position
        self._positions, self._log_p, self._held = [], None, {}

    @property
    def over(self):
        return all(token >= 0 for token in self.tokens)

    def look(self, rows, mask_id):
        """At the pass's logits, one row for each position of the answer; those of committed positions are not used."""
        positions = [p for p, token in enumerate(self.tokens) if token < 0]
        before = None
        if self._log_p is not None and set(positions) <= set(self._positions):
            place = {p: i for i, p in enumerate(self._positions)}
            before = _rows_at(self._log_p, [place[p] for p in positions])
        numbers, log_p = (_measure_tensor if _is_tensor(rows) else _measure)(_rows_at(rows, positions), mask_id, before)
        if self.keeps_distributions:
            self._positions, self._log_p = positions, log_p
        self.masked = [self._proposal(p, n, positions[0]) for p, n in zip(positions, numbers)]
        self._held = {m.position: (m.token, m.held) for m in self.masked}

    def _proposal(self, position, numbers, first_mask):
        m = Proposal()
        m.position = position
        m.token, m.confidence, m.margin, m.entropy, m.drift = numbers
        token, held = self._held.get(position, (-1, 0))
        m.held = held + 1 if token == m.token else 0
        m.ends = m.token in self.eos_ids
        m.waits = m.ends and position != first_mask and not 0 <= self.ending < position   # until nothing left of it is masked
        length = len(self.tokens)
        # The prompt counts as a token left of the answer; right of it is none, as far away as the answer is long.
        m.left = next((p for p in range(position - 1, -1, -1) if self.tokens[p] >= 0), -1)
        m.right = next((p for p in range(position + 1, length) if self.tokens[p] >= 0), position + length)
        return m

    def commit(self, picks):
        """Proposals become tokens; `picks` are indices into `masked`. Behind an ending with nothing masked left of it all is filled with it.
        Returns the new (position, token)."""
        new = [(self.masked[i].position, self.masked[i].token) for i in picks]
        self._write(new)
        if self.ending >= 0 and all(token >= 0 for token in self.tokens[:self.ending]):
            filled = [(p, self.tokens[self.ending]) for p, token in enumerate(self.tokens) if token < 0]
            self._write(filled)
            new += filled
        self.passes += 1
        return new

    def _write(self, commits):
        for position, token in commits:
            self.tokens[position] = token
            if token in self.eos_ids and (self.ending < 0 or position < self.ending):
                self.ending = position

    def allowed(self, picks):
        """Without the endings that would stand right of a mask, unless another ending is left of them already."""
        words = [i for i in picks if not self.masked[i].ends]
        filled = {self.masked[i].position for i in words}
        is_open = [token < 0 and p not in filled for p, token in enumerate(self.tokens)]
        ending, kept = self.ending, []
        for i in sorted(i for i in picks if self.masked[i].ends):
            position = self.masked[i].position
            if not any(is_open[:position]) or 0 <= ending < position:
                is_open[position] = False
                ending = position if ending < 0 else ending
                kept.append(i)
        return [i for i in picks if not self.masked[i].ends or i in kept]


# ---- features, by name (envs/token_commit/features.cpp) ----

def _single(x):
    return ctypes.c_float(x).value


def _log_distance(n):
    return math.log2(1 + n)


def _sureness(confidence):
    # In single precision, as in training: close to 1 the rounding is seen.
    c = min(max(_single(confidence), _single(1e-6)), _single(1 - _single(1e-6)))
    return math.log(c / (1 - c)) - math.log(0.95 / 0.05)


def _budget_left(a):
    return max(-1.0, 1 - a.passes / a.planned_passes) if a.planned_passes > 0 else 1.0


CONTEXT_FEATURES = {   # of the answer
    "share_masked": lambda a: len(a.masked) / len(a.tokens),
    "window_masked": lambda a: len(a.masked) / len(a.tokens),   # the window is the block
    "window_begin": lambda a: 0.0,
    "log_masked": lambda a: _log_distance(len(a.masked)),
    "pass": lambda a: _log_distance(a.passes),
    "budget_left": _budget_left,
    "ended": lambda a: float(a.ending >= 0),
    "best_confidence": lambda a: max(m.confidence for m in a.masked),
}
ITEM_FEATURES = {   # of the answer and one of its proposals
    "confidence": lambda a, m: m.confidence,
    "sureness": lambda a, m: _sureness(m.confidence),
    "margin": lambda a, m: m.margin,
    "entropy": lambda a, m: m.entropy,
    "log_drift": lambda a, m: math.log(m.drift + 1e-6),
    "held": lambda a, m: _log_distance(m.held),
    "from_first_mask": lambda a, m: _log_distance(m.position - a.masked[0].position),
    "from_left": lambda a, m: _log_distance(m.position - m.left),
    "from_right": lambda a, m: _log_distance(m.right - m.position),
    "ends": lambda a, m: float(m.ends),
}


# ---- the controller ----

class CommitController:
    """An artefact of `trimtab export` or `trimtab fit commitment`: which proposals are committed. One thread at a time.

    artefact    controller.ttc.safetensors
    library     libtrimtab_runtime.so; None: what TRIMTAB_RUNTIME names, or the system finds
    threshold   probability from which on a proposal is committed; None: what the artefact was trained with, or 0.5
    most        proposals committed in a pass at most, 0: any number; None: as trained, or 0
    max_items   masked positions looked at, from the left; 0: as many as in training
    ValueError when the file, or what it asks for, cannot be served."""

    def __init__(self, artefact, library=None, threshold=None, most=None, max_items=0):
        self.file = os.fspath(artefact)
        self._handle = None
        self._runtime = _load_runtime(library)
        self._open(max_items)
        try:
            info = self._agent_info()
            self._context = self._features(0, info.num_context, CONTEXT_FEATURES)
            self._item = self._features(1, info.num_item, ITEM_FEATURES)
        except ValueError:
            self.close()
            raise
        self.max_items = info.max_items if max_items else info.trained_items
        self.threshold = _single(self._trained("threshold", 0.5) if threshold is None else threshold)
        self.most = int(self._trained("most", 0) if most is None else most)
        self._action = (ctypes.c_float * self.max_items)()

    def _open(self, max_items):
        options = _OpenOptions(ctypes.sizeof(_OpenOptions), _ABI_VERSION, max_items, 1, 0.0)
        handle, why = ctypes.c_void_p(), ctypes.create_string_buffer(512)
        if self._runtime.tt_open(os.fsencode(self.file), options, handle, why, len(why)) != _OK:
            raise ValueError(f"{self.file}: {why.value.decode(errors='replace')}")
        self._handle = handle

    def _agent_info(self):
        agents = {}
        for index in range(self._runtime.tt_num_agents(self._handle)):
            info = _AgentInfo(struct_size=ctypes.sizeof(_AgentInfo))
            self._runtime.tt_get_agent_info(self._handle, index, info)
            agents[info.name.decode()] = info
        if list(agents) != ["commit"]:
            raise ValueError(f"{self.file}: its agents are {', '.join(agents)}; a commit strategy takes one, 'commit': train without "
                             "env.decide_window and env.decide_refresh")
        info = agents["commit"]
        if info.action != _SUBSET or info.num_item == 0:
            raise ValueError(f"{self.file}: the agent 'commit' does not answer with a probability for every position: train with env.action=subset")
        return info

    def _features(self, of_item, count, known):
        out = []
        for index in range(count):
            feature = _Feature(struct_size=ctypes.sizeof(_Feature))
            self._runtime.tt_get_feature(self._handle, 0, of_item, index, feature)
            name = feature.name.decode()
            if name not in known:
                raise ValueError(f"{self.file}: the controller asks for the {'item' if of_item else 'context'} feature '{name}', which a commit "
                                 f"strategy does not have; it has {', '.join(known)}: train with these alone: "
                                 "env.projected=0, env.codes=0, env.places=0, env.committed=0")
            out.append(name)
        return out

    def _trained(self, key, otherwise):
        text = self._runtime.tt_get_text(self._handle, b"config")
        found = re.search(rf"\b{key}:\s*([0-9.eE+-]+)", text.decode()) if text else None
        return float(found.group(1)) if found else otherwise

    @property
    def keeps_distributions(self):
        return "log_drift" in self._item

    def observe(self, answer):
        """The context row, and a row for each proposal shown, in the artefact's order."""
        context = [CONTEXT_FEATURES[name](answer) for name in self._context]
        return context, [[ITEM_FEATURES[name](answer, m) for name in self._item] for m in answer.masked[:self.max_items]]

    def probabilities(self, answer):
        """For each proposal shown. All 0 where an input is not finite: the runtime's safe action."""
        context, items = self.observe(answer)
        flat = [x for row in items for x in row]
        row, rows = (ctypes.c_float * len(context))(*context), (ctypes.c_float * len(flat))(*flat)
        status = self._runtime.tt_decide(self._handle, 0, row, rows, None, len(items), self._action)
        if status == _BAD_ARGUMENT:
            raise ValueError(f"{self.file}: the runtime refuses the call")
        return self._action[:len(items)]

    def choose(self, answer):
        """Indices of the proposals to commit, one at least."""
        p = self.probabilities(answer)
        masked = answer.masked
        picks = [i for i, x in enumerate(p) if x >= self.threshold]
        if 0 < self.most < len(picks):
            picks = sorted(picks, key=lambda i: (not masked[i].waits, p[i], masked[i].confidence), reverse=True)[:self.most]
        if all(masked[i].waits for i in picks):   # nothing that stands by itself: the likeliest that does
            answer.forced += 1
            free = [i for i, m in enumerate(masked) if not m.waits]
            picks.append(max(free, key=lambda i: (p[i] if i < len(p) else 0.0, masked[i].confidence)))
        return answer.allowed(picks)

    def counters(self):
        """What the runtime counted: calls, fallbacks (safe actions), bad_inputs, out_of_range (numbers), deadline_misses."""
        counters = _Counters(struct_size=ctypes.sizeof(_Counters))
        self._runtime.tt_get_counters(self._handle, counters)
        return {name: getattr(counters, name) for name, _ in _Counters._fields_[1:]}

    def close(self):
        if self._handle is not None:
            self._runtime.tt_close(self._handle)
            self._handle = None


# ---- the strategy ----

class TrimtabCommit(DllmAlgorithm):
    """Keys of its configuration: `controller`, the artefact; `eos_ids`, the tokens that end an answer; `library`, `threshold`, `most` and
    `max_items` as CommitController has them; `passes`, planned for a block, where the controller was trained with a plan."""

    def __init__(self, config):
        super().__init__(config)
        keys = dict(config.algorithm_config or {})
        if not keys.get("controller"):
            raise ValueError("TrimtabCommit: the configuration names no controller: controller: controller.ttc.safetensors")
        self.eos_ids = keys.get("eos_ids", [])
        self.planned_passes = keys.get("passes", 0)
        self.controller = CommitController(keys["controller"], keys.get("library"), keys.get("threshold"), keys.get("most"), keys.get("max_items", 0))

    def init_step_state(self, forward_batch):
        return [_Block(ids, self._masks(forward_batch, i, ids), self) for i, ids in enumerate(_blocks(forward_batch.input_ids, self.block_size))]

    def _masks(self, forward_batch, block, ids):
        """Where the block is to be filled; the prompt may hold the mask's id literally."""
        prompt = getattr(forward_batch, "dllm_prompt_mask", None)
        given = [False] * len(ids) if prompt is None else prompt[block].tolist()
        return [token == self.mask_id and not known for token, known in zip(ids, given)]

    def step(self, forward_batch, full_logits, states):
        """One pass: commits into forward_batch.input_ids, in place. A block is done in the pass that began without masks, whose keys and values
        are those of its final tokens."""
        logits = getattr(full_logits, "full_logits", full_logits)
        done, places, tokens = [], [], []
        for i, (block, ids) in enumerate(zip(states, _blocks(forward_batch.input_ids, self.block_size))):
            answer = block.answer
            answer.tokens = [-1 if masked else token for token, masked in zip(ids, self._masks(forward_batch, i, ids))][block.start:]
            done.append(answer.over)
            if answer.over:
                continue
            begin = i * self.block_size + block.start
            answer.look(logits[begin:begin + len(answer.tokens)], self.mask_id)
            for position, token in answer.commit(self.controller.choose(answer)):
                places.append(begin + position)
                tokens.append(token)
        _write_ids(forward_batch.input_ids, places, tokens)
        return done


class _Block:
    """What is kept of a block between passes: the answer in it, which begins at its first mask."""

    def __init__(self, ids, masked, strategy):
        self.start = masked.index(True) if True in masked else len(ids)
        tokens = [-1 if mask else token for token, mask in zip(ids, masked)][self.start:]
        self.answer = Answer(tokens, strategy.eos_ids, strategy.planned_passes, strategy.controller.keeps_distributions)


def _write_ids(ids, places, tokens):
    if _is_tensor(ids):
        if places:
            ids[places] = ids.new_tensor(tokens)
        return
    for place, token in zip(places, tokens):
        ids[place] = token


Algorithm = TrimtabCommit

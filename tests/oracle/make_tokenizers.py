"""Small tokenizers of the shapes of GPT-2, Qwen2 and Llama-3, and what PyPI tokenizers makes of hostile texts with them.

    make_tokenizers.py FOLDER [--texts N] [--vocabulary N] [--longest N] [--seed N] [--code-points]

writes into FOLDER, for each NAME in SHAPES, NAME.json (a tokenizer.json) and NAME.expected.json: what the post-processor puts
around a text, and per text of texts.json the ids, the ids with special tokens left as text (null: the same), and what the first
decode to (null: the text). With --code-points also what becomes of every code point. The real vocabularies
are not needed: theirs differ in merges alone. `tests/oracle/golden/tokenizers` was made with tokenizers 0.23.3 by: --texts 220 --vocabulary 480 --longest 100
"""
import argparse
import json
import pathlib
import random

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST

WORDS = """the of and to in is that it was for on are as with his they at be this from have or by one had not but what all were
when we there can an your which their said if do will each about how up out them then she many some so these would other into
has more her two like him see time could no make than first been its who now people my made over did down only way find use may
water long little very after words called just where most know Don't I'm we'll you've he's they'd THE THAT'S WE'RE return def
import for i in range(10): print(x, y) {"key": [1, 2.5, null]} == != <= += // /* */ 2024 1999 100 000 12345 3.14159
größe straße über naïve café señor ação élève Ångström привет мир как дела это слово ещё не было γειά σου κόσμε שלום עולם
مرحبا بالعالم السلام 你好 世界 中文 字符 测试 こんにちは 世界 カタカナ 한국어 안녕하세요 हिन्दी नमस्ते ไทย สวัสดี 😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 १२३ ٤٥٦""".split()


def corpus(seed):
    draw = random.Random(seed)
    syllables = [a + b for a in "b c d f g l m n p r s t st ch pr".split() for b in "a e i o u an er ing".split()]
    words = WORDS * 5 + ["".join(draw.choice(syllables) for _ in range(draw.randint(2, 4))) for _ in range(1000)]
    for _ in range(4000):
        gaps = [" "] * 12 + ["  ", "\n", "\n\n", "\t", "    ", ", ", ". ", "\r\n"]
        yield "".join(draw.choice(words) + draw.choice(gaps) for _ in range(12))


def special(content, **flags):
    token = dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return token | flags


SHAPES = {
    "gpt2": dict(
        normalizer=None,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        added=[special("<|endoftext|>")], in_vocabulary=["<|endoftext|>"]),
    "qwen2": dict(
        normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        added=[special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>"), special("<tool_call>", special=False)]),
    "llama3": dict(
        normalizer=None, ignore_merges=True, bos="<|begin_of_text|>",
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        added=[special(f"<|{name}|>") for name in
               ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id", "reserved_special_token_0"]],
        in_vocabulary=["Ġwhole", "whole", "ĠÐ¼Ð¸", "ä¸ŃæĸĩåŃĹ", "ĊĊĊ", "'S", "!!!!"]),
    # None of the three has these: every flag of an added token, a prefix space, digits one by one.
    "flags": dict(
        normalizer=normalizers.Sequence([normalizers.NFC()]),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=True)]),
        added=[special("<s>"), special("<mask>", lstrip=True), special("<sep>", rstrip=True), special("<both>", lstrip=True, rstrip=True),
               special("word", single_word=True, special=False), special("words", special=False, normalized=True),
               special("\u1112\u1161\u11ab", special=False, normalized=True), special("<s", special=False), special("  ", special=False)],
        bos="<s>", eos="<sep>"),
}


def build(name, vocabulary, seed):
    shape = SHAPES[name]
    trained = Tokenizer(models.BPE())
    if shape["normalizer"]:
        trained.normalizer = shape["normalizer"]
    trained.pre_tokenizer = shape["pre_tokenizer"]
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(corpus(seed), trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    document = json.loads(trained.to_str())
    model = document["model"]
    model["ignore_merges"] = shape.get("ignore_merges", False)
    if name == "gpt2":  # the older spelling of merges
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    for word in shape.get("in_vocabulary", []):
        model["vocab"].setdefault(word, len(model["vocab"]))
    following = len(model["vocab"])
    for token in shape["added"]:
        number = model["vocab"].get(token["content"], following)
        following += number == following
        document["added_tokens"].append({"id": number} | token)
    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    around = [token for token in (shape.get("bos"), shape.get("eos")) if token]
    if around:
        single = f"{shape['bos']} $A" + (f" {shape['eos']}" if "eos" in shape else "")
        template = processors.TemplateProcessing(single=single, special_tokens=[(token, ids[token]) for token in around])
        level = processors.ByteLevel(trim_offsets=True)
        document["post_processor"] = json.loads(processors.Sequence([level, template]).__getstate__())
    else:
        document["post_processor"] = json.loads(processors.ByteLevel(trim_offsets=False).__getstate__())
    return document


class HostileTexts:
    """Draws texts on which tokenizers differ."""

    SPACES = [" ", " ", " ", "  ", "\t", "\n", "\r\n", "\r", "\n\n", "\u00a0", "\u3000", "\u2028", "\u2029", "\u0085", "\u180e", "\u200b",
              "\u1680", "\u202f", "\u205f", "\u2003", "\ufeff", "\x0b", "\x0c", "\x1c", "\x1f"]
    LOOK_ALIKES = [token["content"] for shape in SHAPES.values() for token in shape["added"]] + [
        "<|im_start", "|>", "<|", "<|im_end|", "<|IM_END|>", "< |im_end|>", "<<s>>", "<s><s", "words word wordsword word_ _word",
        "한", "\u1112\u1161\u11ab", "\u1112\u1161", "Ġthe", "<mask>  <sep>  <both>"]
    CONTRACTIONS = [q + w for q in "'\u2019`" for w in
                    ["s", "S", "t", "T", "re", "RE", "rE", "ve", "VE", "m", "M", "ll", "LL", "lL", "d", "D", "\u017f", "x", ""]]
    RANGES = [(0x20, 0x7e), (0, 0x1f), (0x80, 0x24f), (0x250, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x700, 0x97f), (0x900, 0xdff),
              (0xe00, 0x10ff), (0x1100, 0x11ff), (0x1ab0, 0x1aff), (0x1dc0, 0x1eff), (0x2000, 0x206f), (0x20d0, 0x20ff), (0x2100, 0x27bf),
              (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xe000, 0xe0ff), (0xf900, 0xfaff), (0xfb00, 0xfffd),
              (0x10000, 0x107ff), (0x10a00, 0x11fff), (0x1d100, 0x1d7ff), (0x1e000, 0x1e9ff), (0x1f000, 0x1faff), (0x20000, 0x323af),
              (0xe0000, 0xe01ef), (0xf0000, 0xf00ff), (0x10ff00, 0x10ffff)]
    DIGITS = [0x30, 0x660, 0x6f0, 0x966, 0xe50, 0xff10, 0x1d7ce, 0x1e950, 0x2160, 0xb2, 0xbd, 0x2460, 0x11f50]
    EMOJI = ["👩‍👩‍👧‍👦", "👍🏽", "🇩🇪🇫🇷", "❤️‍🔥", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "😀", "\u200d", "\ufe0f"]
    MARKS = [0x301, 0x300, 0x308, 0x323, 0x327, 0x338, 0x345, 0x5b0, 0x5bc, 0x64b, 0x93c, 0x94d, 0x9fe, 0xc3c, 0x1dfa, 0x3099, 0x11930,
             0x1d165, 0x1e08f, 0x10efd]

    def __init__(self, seed, longest):
        self.draw = random.Random(seed)
        self.longest = longest

    def code_point(self):
        while True:
            if self.draw.random() < 0.05:
                value = self.draw.randrange(0x110000)
            else:
                value = self.draw.randint(*self.draw.choice(self.RANGES))
            if not 0xd800 <= value <= 0xdfff:
                return chr(value)

    def piece(self):
        draw = self.draw
        kind = draw.randrange(12)
        if kind == 0: return "".join(self.code_point() for _ in range(draw.randint(1, 6)))
        if kind == 1: return "".join(draw.choice(self.SPACES) for _ in range(draw.randint(1, 5)))
        if kind == 2: return draw.choice(self.LOOK_ALIKES)
        if kind == 3: return draw.choice(WORDS) + draw.choice(self.CONTRACTIONS)
        if kind == 4: return "".join(chr(draw.choice(self.DIGITS) + draw.randint(0, 9)) for _ in range(draw.randint(1, 7)))
        if kind == 5: return draw.choice(self.EMOJI)
        if kind == 6: return draw.choice("aeouAEnsyc가각あｱ한") + "".join(chr(draw.choice(self.MARKS)) for _ in range(draw.randint(1, 4)))
        if kind == 7: return draw.choice(["\u202e", "\u200f", "\u2067", ""]) + draw.choice(["שלום", "مرحبا", "עולם123", "١٢٣ abc"])
        if kind == 8: return "".join(draw.choice("!?.,;:-_=+*/\\|<>()[]{}#$%&@^~\"'`") for _ in range(draw.randint(1, 6)))
        if kind == 9: return draw.choice(["whole", " whole", "中文字", "\n\n\n", "!!!!", " ми", "ſ", "K", "ß", "ŉ", "ﬆ", "İ"])
        return draw.choice(WORDS)

    def text(self, number):
        draw = self.draw
        if number == 0: return ""
        if number % 500 == 1:  # long runs
            unit = draw.choice(["a", " ", "\n", "\u3000", "ab", "\u0301", "你", "1", "!", "\u0323\u0301", "the", " \n", "<s>"])
            return unit * (self.longest // len(unit)) + draw.choice(["", "x", " ", "\n"])
        if number % 50 == 2: return draw.choice([" ", "\n", "a", "\u0301", "<s>", "\x00", self.code_point()])
        if number % 50 == 3: return "".join(chr(draw.choice(self.MARKS)) for _ in range(draw.randint(1, 12)))
        return "".join(self.piece() + draw.choice(["", "", " ", " ", draw.choice(self.SPACES)]) for _ in range(draw.randint(1, 10)))


def write(file, content):
    file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def expected(tokenizer, texts):
    before, after = tokenizer.encode("").ids, []
    if tokenizer.token_to_id("<sep>") is not None:
        before, after = before[:1], before[1:]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert [before + row + after for row in ids] == [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    decoded = tokenizer.decode_batch(ids, skip_special_tokens=False)
    tokenizer.encode_special_tokens = True
    plain = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows = [[a, None if a == b else b, None if c == text else c] for a, b, c, text in zip(ids, plain, decoded, texts)]
    return {"before": before, "after": after, "rows": rows}


def code_points(folder):
    """Every code point of the planes in use between others: lengths of the words it is cut into, and its NFC beside marks."""
    used = [*range(0xd800), *range(0xe000, 0x40000), *range(0xe0000, 0xe1000), *range(0x10ff00, 0x110000)]
    cut = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    nfc = normalizers.NFC()
    rows = []
    for start in range(0, len(used), 256):
        block = [chr(value) for value in used[start:start + 256]]
        text = "".join(f"a{c}1{c}!{c} " for c in block)
        marked = "".join(f"x{c}\u0301\u0323{c}\u0334e{c}\u3099" for c in block)
        rows.append([text, [end - begin for _, (begin, end) in cut.pre_tokenize_str(text)], marked, nfc.normalize_str(marked)])
    write(folder / "code_points.json", rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--texts", type=int, default=10000)
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--longest", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--code-points", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    hostile = HostileTexts(options.seed, options.longest)
    texts = [hostile.text(number) for number in range(options.texts)]
    write(options.folder / "texts.json", {"producer": f"tokenizers {tokenizers.__version__}", "texts": texts})
    for name in SHAPES:
        document = build(name, options.vocabulary, options.seed)
        write(options.folder / f"{name}.json", document)
        write(options.folder / f"{name}.expected.json", expected(Tokenizer.from_str(json.dumps(document)), texts))
    if options.code_points:
        code_points(options.folder)


if __name__ == "__main__":
    main()

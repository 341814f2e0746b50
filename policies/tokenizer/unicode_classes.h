// Character classes as Hugging Face tokenizers 0.23.3 sees them, in PCRE2's syntax, to stand between [ and ].
//
// Its tables are of Unicode 16 and later, those of PCRE2 10.42 of Unicode 14: what is newer is listed here,
// found by asking both about every code point (tests/oracle/tokenizers_test.cpp asks again).
#pragma once

#include <string_view>

namespace trimtab {

// \s: White_Space, without the U+180E of PCRE2.
inline constexpr std::string_view kSpaceClass =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
// \p{L} and \p{N} of patterns.
inline constexpr std::string_view kLetterClass =
    R"(\p{L}\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3})"
    R"(\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240})"
    R"(\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3})"
    R"(\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f})"
    R"(\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff})"
    R"(\x{1b132}\x{1b155}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb})"
    R"(\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
inline constexpr std::string_view kNumberClass =
    R"(\p{N}\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";
// What the pre-tokenizer Digits takes for one, beside kNumberClass.
inline constexpr std::string_view kMoreDigitsClass = R"(\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6})";
// \w, for added tokens that are a single word (Unicode Technical Standard 18, annex C).
inline constexpr std::string_view kWordClass =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}\x{897}\x{cf3}\x{ece}\x{1c89}-\x{1c8a})"
    R"(\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d40}-\x{10d65}\x{10d69}-\x{10d6d})"
    R"(\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{10efc}-\x{10eff}\x{1123f}-\x{11241})"
    R"(\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}-\x{113c0}\x{113c2})"
    R"(\x{113c5}\x{113c7}-\x{113ca}\x{113cc}-\x{113d3}\x{113e1}-\x{113e2}\x{116d0}-\x{116e3})"
    R"(\x{11bc0}-\x{11be0}\x{11bf0}-\x{11bf9}\x{11f00}-\x{11f10}\x{11f12}-\x{11f3a})"
    R"(\x{11f3e}-\x{11f42}\x{11f50}-\x{11f5a}\x{1342f}\x{13440}-\x{13455}\x{13460}-\x{143fa})"
    R"(\x{16100}-\x{16139}\x{16d40}-\x{16d6c}\x{16d70}-\x{16d79}\x{18cff}\x{1b132}\x{1b155})"
    R"(\x{1ccf0}-\x{1ccf9}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d}\x{1e08f}\x{1e4d0}-\x{1e4f9})"
    R"(\x{1e5d0}-\x{1e5fa}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";

}  // namespace trimtab

// A small tokenizer with the pre-tokenizer and the added tokens that V1 and V2 have: the vocabulary
// lacks the 13 bytes that UTF-8 never contains, and the letters that would stand for them are added
// tokens, so that "ü" is one id.

const SAMPLE = `The quick brown fox jumps over the lazy dog. When in the course of human events it becomes
necessary for one people to dissolve the bands which have connected them with another, and to assume
among the powers of the earth, the separate and equal station to which the laws of nature entitle them.
def main(arguments): return sum(int(value) for value in arguments if value.isdigit())
int main(void) { for (int i = 0; i < 10; i++) printf("%d\\n", i); return 0; }
Über die Straße gehen; les élèves étudient à l'école; el niño mañana; привет мир, как дела; γειά σου κόσμε.
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。今日は世界。안녕하세요 세계.`;

// Written as code points: normalisation by an editor would turn some of them into others.
const LETTERS =
  '\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377' +
  '\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5' +
  '\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d' +
  '\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4' +
  '\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d' +
  '\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4' +
  '\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06' +
  '\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}' +
  '\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+';
const SPLITS = ['[\r\n]', LETTERS, '\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+', '\\s+$',
  '[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+'];
const NEVER_IN_UTF8 = [0xc0, 0xc1, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff];
const MERGES = 300;

function byteCharacters() {
  const characters = [];
  let remapped = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    characters.push(String.fromCodePoint(printable ? byte : remapped++));
  }
  return characters;
}

// The most frequent pair becomes a token, of equals the first in code point order.
function trainMerges(characters, vocab) {
  const words = SAMPLE.match(/ ?\p{L}+| ?[^\s\p{L}]+/gu).map((w) => [...Buffer.from(w)].map((b) => characters[b]));
  const merges = [];
  while (merges.length < MERGES) {
    const counts = new Map();
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = word[i] + ' ' + word[i + 1];
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    const [best] = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))[0];
    const [left, right] = best.split(' ');
    merges.push([left, right]);
    vocab[left + right] ??= Object.keys(vocab).length;
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++)
        if (word[i] === left && word[i + 1] === right) word.splice(i, 2, left + right);
  }
  return merges;
}

export function makeV2Style() {
  const characters = byteCharacters();
  const vocab = {};
  characters.forEach((c, byte) => {
    if (!NEVER_IN_UTF8.includes(byte)) vocab[c] = Object.keys(vocab).length;
  });
  const merges = trainMerges(characters, vocab);
  let id = Object.keys(vocab).length;
  const added = (content, special, normalized) =>
    ({ id: id++, content, single_word: false, lstrip: false, rstrip: false, normalized, special });
  const added_tokens = [
    added('<｜begin▁of▁sentence｜>', true, true),
    added('<｜end▁of▁sentence｜>', true, true),
    ...NEVER_IN_UTF8.map((byte) => added(characters[byte], false, true)),
    added('<｜fim▁hole｜>', false, true),
    added('<｜User｜>', false, true),
    added('<|EOT|>', true, true),
    added('<｜User｜><raw>', false, false),
  ];
  const pretokenizers = [
    ...SPLITS.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })),
    { type: 'Digits', individual_digits: true },
    { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
  ];
  const byteLevel = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true };
  const options = { dropout: null, unk_token: null, continuing_subword_prefix: null,
    end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, ignore_merges: false };
  const tokenizer = { version: '1.0', truncation: null, padding: null, added_tokens,
    normalizer: { type: 'Sequence', normalizers: [] },
    pre_tokenizer: { type: 'Sequence', pretokenizers },
    post_processor: byteLevel, decoder: byteLevel,
    model: { type: 'BPE', ...options, vocab, merges } };
  const config = { bos_token: { content: '<｜begin▁of▁sentence｜>' }, eos_token: '<｜end▁of▁sentence｜>',
    chat_template: "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\\n\\n' }}{% elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}" };
  return { tokenizer, config };
}

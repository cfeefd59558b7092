// The texts: some chosen for what they contain, and mixtures of their pieces from a fixed generator.

const PIECES = {
  words: ['Hello', ' world', 'the', ' quick', "don't", "I'll", ' WE', 'CamelCase', 'snake_case', 'x', ' a', 'What is 37 plus 58?'],
  accents: ['café', 'cafe\u0301', 'naïve', 'nai\u0308ve', 'Ünïcödé', 'U\u0308', 'ñ', 'n\u0303', 'Å', 'A\u030a', 'ǖ', 'u\u0308\u0304', 'Straße', 'ÿÀÁõö÷øùúûüýþ', 'œuvre', 'İstanbul', 'Việt Nam', 'Vie\u0302\u0323t', 'ﬁn', 'ǅ'],
  scripts: ['Привет, мир', 'ёлка', 'γειά σου', 'ὀδυσσεύς', 'שלום עולם', 'שָׁלוֹם', 'مرحبا بالعالم', 'مَرْحَبًا', 'नमस्ते दुनिया', 'क्षत्रिय', 'สวัสดีชาวโลก', 'ພາສາລາວ', 'தமிழ்', '한국어 문장', '\u1112\u1161\u11ab', 'ქართული', 'Հայերեն', 'አማርኛ', 'Ελληνικά', '𐐷𐐲', '𞤀𞤣', '𝔘𝔫𝔦', '𓀀𓂀'],
  cjk: ['你好世界', '人工智能', '今日は', 'カタカナ', 'ｶﾀｶﾅ', 'ひらがな', '漢字かな交じり文', '中文，标点。', '「引用」', '《书名》', '㐀𠀀𪛖', '々〆ヶ', '全角ＡＢＣ１２３', '㊀㈱㍿', '龥龦', 'ㄅㄆㄇ', '中English文', '第1章'],
  emoji: ['😀', '👍🏽', '👨‍👩‍👧‍👦', '🏳️‍🌈', '🇩🇪🇯🇵', '❤️', '☺', '1️⃣', '🧑🏿‍🚀', '🫠', '✅✔︎', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '\u200d', '\ufe0f'],
  digits: ['0', '7', '42', '007', '1234', '12345', '123456', '1234567890', '3.14159', '1,000,000', '-273.15', '0xFF', '1e-9', '2024-01-31', '٣٤٥٦', '१२३४', '²³¹⁰', '½⅓', 'Ⅷ', '①②', '１２３４', '𝟙𝟚𝟛𝟜', 'x²+y²', '10%', '万100'],
  code: ['int main(void) {\n    return 0;\n}\n', 'for (i = 0; i < n; ++i)\n\tsum += a[i];\n', '#include <stdio.h>', 'def f(x):\n    """Doc."""\n    return x**2\n', 'a && b || !c', 'std::vector<int> v{1,2,3};', '<div class="x">&amp;</div>', '{"key": [1, 2.5, null]}', 'SELECT * FROM t WHERE a=\'b\';', '$HOME/.config', '\\frac{a}{b}', 'C:\\Users\\x', 'https://example.org/?q=a%20b&c=d#e', 'user@example.org', '```c\n```', '/* comment */', '// ---', '=>', '->', '...', '…', '!!!', '??', "'s", "'S", '`~!@#$%^&*()_+-=[]{}|;:\'",.<>/?'],
  symbols: ['€£¥₿', '±×÷√∞≈', '←↑→↓', '§¶†‡•', '“quotes”', '‘single’', '«guillemets»', '–—―', '°C', '©®™', '№', '¿qué?', '¡no!', '\u00ad', '▁', '｜', '░▒▓', 'ª º', '¨´¸', '\ufffd'],
  white: [' ', '  ', '   ', '          ', '\t', '\t\t', ' \t ', '\n', '\n\n', '\n\n\n', '\r\n', '\r\n\r\n', '\r', ' \n', '\n ', '  \n  ', '\n\t', '\u00a0', '\u00a0\u00a0', '\u3000', '\u3000\u3000', '\u2003', '\u2009', '\u200b', '\u2028', '\u2029', '\u0085', '\u000b', '\u000c', '\u1680', '\u180e', '\u202f', '\u205f', '\ufeff', ' \u00a0 ', '\n   \n   \n', ' \r\n '],
  marks: ['\u0301', '\u0301\u0302', ' \u0308', '\u0e31', '\u093f', '\u064b', '\u20dd', '\u3099', 'か\u3099', '\u0488'],
  control: ['\u0001', '\u0007', '\u001b[31m', '\u007f', '\u009f', '\u0008', '\u2060', '\u202e', '\u200e', '\u200f', '\u2066', '\ue000', '\u{f0000}', '\u{10ffff}', '\uffff', '\u{e0001}', '\u0378'],
  special: ['<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜▁pad▁｜>', '<｜User｜>', '<｜Assistant｜>', '<｜User｜', '｜User｜>', '<|User|>', '<｜User', '<<｜User｜>>', '<｜begin▁of▁sentence｜', '<think>', '</think>', '<｜User｜><raw>', '<｜fim▁hole｜>', '<|EOT|>', '<|EO', 'User: hi\n\nAssistant:'],
};

const CHOSEN = [
  '', 'a'.repeat(300), ' '.repeat(100), '\n'.repeat(50), '\t'.repeat(40), '0'.repeat(61), '中'.repeat(80), 'é'.repeat(40),
  '👍'.repeat(20), 'ab'.repeat(90), '!'.repeat(70), '\u0301'.repeat(30), 'x' + ' '.repeat(60) + 'y', 'x' + ' '.repeat(60) + '1',
  'x' + ' '.repeat(60) + '中', ' '.repeat(60) + '\n' + ' '.repeat(60), 'line one\nline two\r\nline three\rline four', '  leading', 'trailing  ',
  '\n leading line', 'trailing line\n', 'trailing blanks \n \n', 'a\n\n\n\nb', 'a \n \n \n b', 'tabs\tin\tbetween', '\tif x:\n\t\treturn\n',
  'a  b   c    d', 'a\u00a0b\u3000c', 'x \u00a0', '1 2 3', ' 1', '  12  345', '12 345', 'a1b2c3', '1a', 'a1', '１a', '3rd', '$5', '€5', '-5',
  "it's we're they'll I'm you've he'd", "IT'S WE'RE", '’s', 'a.b.c', 'a,b', '.a', ',a', '_a', ' _a', '-a', ' -a', '(a)', ' (a)', '"a"', "'a'",
  'a/b', '/a', '@a', '#a', '&a', '*a*', '**a**', '~a', '`a`', '\\a', '[a]', '{a}', '<a>', '|a|', '^a', '=a', '+a', '%a', '?a', '!a', ':a', ';a',
  '\u0301a', 'a\u0301', ' \u0301a', '1\u0301', '.\u0301', '\n\u0301', '中\u0301', '\u0000', 'a\u0000b',
  '\ud7ff\ue000', '\u07ff\u0800', '\u007f\u0080', '\uffff\u{10000}', 'ﷺ', '🤦🏼‍♂️', 'Z͑ͫ̓ͪ̂ͫ̽a̴̵l̷g̴o̵',
];

// xorshift32: the same mixtures on every machine.
function generator(seed) {
  let state = seed;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}

const MIXTURES = 320;

export function texts() {
  const kinds = Object.values(PIECES);
  const out = new Set(CHOSEN);
  for (const piece of kinds.flat()) out.add(piece);
  for (const white of PIECES.white) {
    out.add('a' + white + 'b');
    out.add(white + 'x' + white);
    out.add('.' + white + '9' + white + '中');
  }
  for (const token of PIECES.special) out.add('before ' + token + '\nafter' + token + token);
  const random = generator(20240131);
  for (let i = 0; i < MIXTURES; i++) {
    let text = '';
    for (let n = 2 + random(9); n > 0; n--) {
      const kind = kinds[random(kinds.length)];
      text += kind[random(kind.length)];
      if (random(3) === 0) text += ' ';
    }
    out.add(text);
  }
  return [...out];
}

// Makes cases.json and v2-style/{tokenizer.json,tokenizer_config.json,cases.json}: texts with the
// ids that two independent implementations give them. A development step; its results are committed.
//
//     mkdir /tmp/cases && cd /tmp/cases
//     npm install @huggingface/tokenizers@0.2.0 @anush008/tokenizers@0.6.0
//     cp .../tests/data/tokenizer/*.mjs . && node make_cases.mjs .../tests/data/tokenizer .../deploy/demo-model
//
// @anush008/tokenizers is Hugging Face's Rust library; @huggingface/tokenizers an implementation in
// JavaScript. A text on which they differ is printed and left out; at the time of writing none did.
// Same input, same output: nothing here is random.
import { createRequire } from 'module';
import fs from 'fs';
import path from 'path';
import { Tokenizer as Script } from '@huggingface/tokenizers';
import { texts } from './texts.mjs';
import { makeV2Style } from './v2_style.mjs';

const { Tokenizer: Reference } = createRequire(import.meta.url)('@anush008/tokenizers');
const [outDirectory, demoDirectory] = process.argv.slice(2);

const read = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));
const write = (file, value) => fs.writeFileSync(file, value + '\n');

// The Rust library gives added tokens that model.vocab does not list new ids at its end, whatever
// their "id" says. So that the file's ids count, they are listed.
function reference(tokenizer) {
  const complete = structuredClone(tokenizer);
  for (const { content, id } of complete.added_tokens) complete.model.vocab[content] ??= id;
  return Reference.fromString(JSON.stringify(complete));
}

async function makeCases(model, file) {
  const tokenizer = read(path.join(model, 'tokenizer.json'));
  const rust = reference(tokenizer);
  const script = new Script(tokenizer, read(path.join(model, 'tokenizer_config.json')));
  const cases = [], differing = [];
  for (const text of texts()) {
    const ids = (await rust.encode(text, null, { addSpecialTokens: false })).getIds();
    const other = script.encode(text, { add_special_tokens: false }).ids;
    if (JSON.stringify(ids) === JSON.stringify(other)) cases.push(JSON.stringify({ text, ids }));
    else differing.push(JSON.stringify(text).slice(0, 60));
  }
  write(file, '[\n' + cases.join(',\n') + '\n]');
  console.log(`${file}: ${cases.length} cases, ${differing.length} left out`);
  for (const text of differing) console.log('  ' + text);
}

const v2Directory = path.join(outDirectory, 'v2-style');
const v2 = makeV2Style();
write(path.join(v2Directory, 'tokenizer.json'), JSON.stringify(v2.tokenizer, null, 1));
write(path.join(v2Directory, 'tokenizer_config.json'), JSON.stringify(v2.config, null, 1));
await makeCases(demoDirectory, path.join(outDirectory, 'cases.json'));
await makeCases(v2Directory, path.join(v2Directory, 'cases.json'));

// What is missing in the name of a locale: a table of 8,000 rows in a package of FormatJS. As an object it would make up two
// thirds of all names that QuickJS knows, and every run looks for names. So it becomes one text.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { runInNewContext } from 'node:vm';

const TABLE = /^const likelySubtags = (\{[^{}]*\});$/gm;
const LOOKUP = fileURLToPath(new URL('modules/intl/text-table.js', import.meta.url));

const toText = (table) => Object.entries(table)
  .sort(([a], [b]) => (a < b ? -1 : 1))
  .map(([name, value]) => `${name} ${value}\n`)
  .join('');

export const likelySubtags = {
  name: 'likely-subtags',
  setup({ onLoad }) {
    onLoad({ filter: /@formatjs\/intl-getcanonicallocales\/index\.js$/ }, async ({ path }) => {
      const source = await readFile(path, 'utf8');
      const tables = [...source.matchAll(TABLE)];
      if (tables.length !== 1) throw new Error(`${path} has its table of likely subtags in another form`);
      const text = toText(runInNewContext(`(${tables[0][1]})`));
      const contents = source.replace(TABLE, () => `const likelySubtags = textTable(${JSON.stringify(text)});`);
      return { contents: `import textTable from ${JSON.stringify(LOOKUP)};\n${contents}` };
    });
  },
};

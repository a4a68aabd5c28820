// Bundles a file and all that it needs into one script, written to the standard output. Called by
// engine/build/bundle.rs as `node bundle.mjs modules/index.js chatfn.modules`: the second argument is what is set to the
// file's exports. The same inputs give the same bytes.
import { build } from 'esbuild';

import { likelySubtags } from './likely-subtags.mjs';
import { localeData } from './locale-data.mjs';

const [entryPoint, globalName] = process.argv.slice(2);

const { outputFiles } = await build({
  entryPoints: [entryPoint],
  bundle: true,
  write: false,
  format: 'iife',
  globalName,
  target: 'es2023',
  // Not Node, not a browser: packages get what they name, in their ES form where they have one.
  platform: 'neutral',
  mainFields: ['module', 'main'],
  define: { global: 'globalThis' },
  // What packages ask for by name, and get from us.
  alias: {
    buffer: './modules/buffer.js',
    crypto: './modules/crypto/index.js',
    qs: './modules/qs.js',
    querystring: './modules/querystring.js',
    stream: './modules/stream.js',
    util: './modules/util',
  },
  plugins: [likelySubtags, localeData],
  // The line numbers of packages help nobody; names of functions and classes stay as they are.
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none',
  logLevel: 'warning',
});
process.stdout.write(outputFiles[0].contents);

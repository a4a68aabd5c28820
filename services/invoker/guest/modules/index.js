// The built-in modules: all but the toolbelt that `require` and `import` know. To add one, add a line; what it needs of npm is pinned in
// package.json. The build bundles this file, and every module is evaluated when the image of the sandbox is made, so a
// run pays nothing for those that it does not use. See guest/README.md.
module.exports = {
  // Modules of Node, also under their names with `node:` in front.
  node: {
    assert: () => require('assert'),
    buffer: () => require('buffer'),
    crypto: () => require('crypto'),
    events: () => require('events'),
    path: () => require('path-browserify'),
    process: () => globalThis.process,
    querystring: () => require('querystring'),
    timers: () => require('./timers'),
    'timers/promises': () => require('./timers').promises,
    url: () => require('./url'),
    util: () => require('util'),
  },
  // Libraries, by the names that npm gives them.
  packages: {
    'es-toolkit': () => require('es-toolkit'),
    jsonwebtoken: () => require('jsonwebtoken'),
    lodash: () => require('lodash'),
    luxon: () => require('./luxon'),
    'oauth-1.0a': () => require('oauth-1.0a'),
    undici: () => require('./undici'),
  },
};

Object.defineProperty(globalThis, 'Buffer', {
  value: require('buffer').Buffer,
  writable: true,
  enumerable: false,
  configurable: true,
});

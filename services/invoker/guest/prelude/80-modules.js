// The built-in modules: this table is all that `require` and `import` know. To add one, add a line;
// a module that is an npm bundle gets a file of its own that sets chatfn.modules[name].

const promisify = (callbackStyle) => (...args) =>
  new Promise((resolve, reject) => {
    callbackStyle(...args, (error, value) => (error == null ? resolve(value) : reject(error)));
  });

// Taken here, where an author's own top-level names (`const { URL } = require('url')`) cannot hide them.
const { crypto, TextDecoder, TextEncoder, URL, URLSearchParams } = globalThis;

// name -> function that makes the exports, called at the first use
chatfn.modules = {
  crypto: () => ({
    getRandomValues: (view) => crypto.getRandomValues(view),
    randomUUID: () => crypto.randomUUID(),
    webcrypto: crypto,
  }),
  url: () => ({ URL, URLSearchParams }),
  util: () => ({
    format: (...values) => chatfn.format(values),
    inspect: (value) => chatfn.inspect(value),
    promisify,
    TextDecoder,
    TextEncoder,
  }),
};

const loaded = new Map();

chatfn.require = (specifier) => {
  const name = String(specifier).replace(/^node:/, '');
  if (!loaded.has(name)) {
    if (!Object.hasOwn(chatfn.modules, name)) {
      throw new chatfn.ForbiddenImportError(String(specifier), Object.keys(chatfn.modules).sort());
    }
    loaded.set(name, chatfn.modules[name]());
  }
  return loaded.get(name);
};

// CommonJS, for sources that are scripts. There is one source, so these can be globals.
const module = { exports: {} };
chatfn.defineAll({ module, exports: module.exports, require: (specifier) => chatfn.require(specifier) });

// What a source exports as its lambda: of an ES module its namespace is given.
chatfn.findExported = (namespace) => {
  const exported = namespace ?? module.exports;
  const candidates = namespace === undefined
    ? [exported, exported?.lambda, exported?.default]
    : [exported.lambda, exported.default, exported.default?.lambda];
  return candidates.find((candidate) => typeof candidate === 'function');
};

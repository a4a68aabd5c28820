// `require`, and what `import` finds: the built-in modules of modules/index.js and the toolbelt
// (85-toolbelt.js), and nothing else.

const loaded = new Map();

const find = (specifier) => {
  const name = specifier.startsWith('node:') ? specifier.slice(5) : specifier;
  if (Object.hasOwn(chatfn.modules.node, name)) return chatfn.modules.node[name];
  if (Object.hasOwn(chatfn.modules.packages, specifier)) return chatfn.modules.packages[specifier];
  throw new chatfn.ForbiddenImportError(specifier, chatfn.moduleNames());
};

chatfn.moduleNames = () => [...Object.keys(chatfn.modules.node), ...Object.keys(chatfn.modules.packages)].sort();

chatfn.require = (specifier) => {
  const make = find(String(specifier));
  if (!loaded.has(make)) loaded.set(make, make());
  return loaded.get(make);
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

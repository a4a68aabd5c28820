for (const name of ['lp-faas-toolbelt', 'core-functions-toolbelt']) chatfn.modules.packages[name] = chatfn.toolbelt.exports;
chatfn.Buffer = globalThis.Buffer;

// Every module is evaluated now, for the image: a run pays for none, and has all of them.
for (const name of chatfn.moduleNames()) chatfn.require(name);

// Every module is evaluated now, for the image: a run pays for none, and has all of them.
for (const name of chatfn.moduleNames()) chatfn.require(name);

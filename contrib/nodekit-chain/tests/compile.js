// Compiles the contracts of a folder: node compile.js FOLDER, with solc beside the working directory.
// Prints {name: {abi, bytecode}} as JSON.
const fs = require("fs");
const path = require("path");
const solc = require(path.resolve("node_modules/solc"));

const folder = process.argv[2];
const sources = {};
for (const name of fs.readdirSync(folder).filter((name) => name.endsWith(".sol"))) {
  sources[name] = { content: fs.readFileSync(path.join(folder, name), "utf8") };
}
const settings = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: "paris",
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
};
const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings })));
const problems = (output.errors || []).map((error) => error.formattedMessage);
if (problems.length) {
  console.error(problems.join("\n"));
  process.exit(1);
}
const found = {};
for (const contracts of Object.values(output.contracts)) {
  for (const [name, contract] of Object.entries(contracts)) {
    found[name] = { abi: contract.abi, bytecode: contract.evm.bytecode.object };
  }
}
console.log(JSON.stringify(found));

// Asks the public validators whether the documents of the contract are what they say they are.
//
//   node validate.js ../../docs/contract

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Parser } from "@asyncapi/parser";
import { Validator } from "@seriousme/openapi-schema-validator";

const folder = process.argv[2];
const faults = [];

const asyncapi = await new Parser().parse(readFileSync(join(folder, "asyncapi.json"), "utf8"));
for (const { code, message, path, severity } of asyncapi.diagnostics) {
  // 0 is an error and 1 a warning; below that it is advice.
  if (severity <= 1) faults.push(`asyncapi.json: ${path.join("/")}: ${code}: ${message}`);
}
if (!asyncapi.document) faults.push("asyncapi.json: it cannot be read");

const openapi = new Validator();
const { valid, errors } = await openapi.validate(JSON.parse(readFileSync(join(folder, "openapi.json"), "utf8")));
if (!valid) faults.push(`openapi.json: ${JSON.stringify(errors, null, 2)}`);
if (openapi.version !== "3.1") faults.push(`openapi.json: version ${openapi.version}`);

for (const fault of faults) console.log(fault);
process.exitCode = faults.length === 0 ? 0 : 1;

// Holds the fixtures of the events, what programs of then and now really write, against their schemas; and what is
// wrong in each way that a schema can say.
//
//   node fixtures.js ../../docs/contract/schemas ../../domain/fixtures

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const [schemas, fixtures] = process.argv.slice(2);
// Strict: a schema with a keyword that means nothing is a fault.
const ajv = addFormats(new Ajv({ strict: true }));
const read = (folder, file) => JSON.parse(readFileSync(join(folder, file), "utf8"));
let faults = 0;

function expect(wanted, valid, value, what) {
  if (valid(value) === wanted) return;
  faults += 1;
  console.log(`${what}: ${wanted ? ajv.errorsText(valid.errors) : "accepted"}: ${JSON.stringify(value)}`);
}

/** A value of another type than any schema of ours would take in its place. */
const other = (value) => (typeof value === "object" ? 5 : { not: value });

const files = readdirSync(fixtures);
for (const file of files) {
  const schema = read(schemas, file);
  const valid = ajv.compile(schema);
  const eventType = file.slice(0, file.lastIndexOf(".v"));
  const data = read(fixtures, file);
  expect(true, valid, { eventType, data }, file);
  expect(true, valid, { eventType, data: { ...data, addedLater: 1 }, addedLater: 1 }, `${file}, with more fields`);
  expect(false, valid, { eventType: "post.eaten", data }, `${file}, another type`);
  expect(false, valid, { eventType }, `${file}, no data`);
  for (const name of Object.keys(data)) {
    const { [name]: value, ...rest } = data;
    const optional = !schema.$defs.data.required.includes(name);
    expect(optional, valid, { eventType, data: rest }, `${file}, without ${name}`);
    expect(false, valid, { eventType, data: { ...rest, [name]: other(value) } }, `${file}, ${name} of another type`);
    expect(false, valid, { eventType, data: { ...rest, [name]: null } }, `${file}, ${name} null`);
  }
}
if (files.length === 0) {
  faults += 1;
  console.log(`${fixtures}: no fixtures`);
}
process.exitCode = faults === 0 ? 0 : 1;

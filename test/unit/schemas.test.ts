/** The schemas are valid JSON Schema: nobody looks at that as lxstow begins. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';

const folder = new URL('../../schemas/', import.meta.url);

describe('the schema', () => {
  for (const name of readdirSync(folder).filter((name) => name.endsWith('.json'))) {
    it(name, () => {
      const ajv = new Ajv2020({ logger: false });
      const valid = ajv.validateSchema(JSON.parse(readFileSync(new URL(name, folder), 'utf8')) as object);
      assert.ok(valid, ajv.errorsText());
    });
  }
});

/** docs/guarantees.md promises nothing that no test is named for, and names no test that is not there. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, it } from 'node:test';

const page = new URL('../../docs/guarantees.md', import.meta.url);
const rows = (await readFile(page, 'utf8')).split('\n').filter((line) => line.startsWith('| '));

describe('what the guarantees name as their tests', () => {
  for (const row of rows.filter((each) => each.includes('.test.ts'))) {
    it(row.split('|')[1]?.trim() ?? '', async () => {
      const cited = row.split('|').at(-2) ?? '';
      const files = [...cited.matchAll(/\[\w+\]\(([^)]+)\)((?:,? "[^"]+")+)/g)];
      assert.notEqual(files.length, 0, `no test in ${cited}`);
      for (const [, file = '', names = ''] of files) {
        const source = await readFile(new URL(file, page), 'utf8');
        for (const [, name = ''] of names.matchAll(/"([^"]+)"/g))
          assert.ok(source.replaceAll("\\'", "'").includes(name), `${file} has no test ${name}`);
      }
    });
  }
});

/** docs/troubleshooting.md knows every code that lxstow fails with, and no other. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { it } from 'node:test';
import { errorCodes, LxstowError } from '../../services/contract/errors.ts';

it('docs/troubleshooting.md has each code once, with its HTTP status and whether it is tried again', async () => {
  const page = await readFile(new URL('../../docs/troubleshooting.md', import.meta.url), 'utf8');
  const rows = [...page.matchAll(/^\| `([a-z0-9-]+)` \| (\d+) \| (yes|no) \| [^|]+ \| [^\n]+ \|$/gm)];
  const described = rows.map(([, code, status, again]) => `${code} ${status} ${again}`);
  const known = errorCodes.map((code) => {
    const { status, repeatable } = new LxstowError(code, '');
    return `${code} ${status} ${repeatable ? 'yes' : 'no'}`;
  });
  assert.deepEqual(described.toSorted(), known.toSorted());
});

/** No upload of a backup is left that nobody knows of. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LxstowError } from '../../services/contract/errors.ts';
import { openUpload } from '../../services/worker/backup/archiveUpload.ts';
import { abortUploads } from '../../services/worker/backup/begin.ts';

const key = 'local/default/c1/b.tar';
const never = new AbortController().signal;

describe('an upload of a backup', () => {
  let [opened, aborted]: [number, string[]] = [0, []];
  const store = {
    beginUpload: async () => ({ key, uploadId: String(++opened) }),
    abortUpload: async ({ uploadId }: { uploadId: string }) => void aborted.push(uploadId),
    async *listUploads(prefix: string) {
      for (const [uploadId, each] of Object.entries({ a: key, b: `${key}.old`, c: key }))
        if (each.startsWith(prefix)) yield { key: each, uploadId, initiated: new Date().toISOString() };
    },
  } as unknown as Parameters<typeof openUpload>[3] & Parameters<typeof abortUploads>[2];
  const log = { error: assert.fail, warn: assert.fail } as unknown as Parameters<typeof openUpload>[2]['log'];

  it('is aborted when it cannot be recorded', async () => {
    [opened, aborted] = [0, []];
    const away = new LxstowError('nats-unavailable', 'NATS is away');
    const attempt = { signal: never, log, checkpoint: async () => Promise.reject(away) };
    await assert.rejects(openUpload(key, { tags: {}, contentType: '' }, attempt, store), away);
    assert.deepEqual(aborted, ['1']);
  });

  it('stays when it is recorded', async () => {
    [opened, aborted] = [0, []];
    const recorded: unknown[] = [];
    const attempt = { signal: never, log, checkpoint: async (facts: object) => void recorded.push(facts) };
    assert.equal((await openUpload(key, { tags: {}, contentType: '' }, attempt, store)).uploadId, '1');
    assert.deepEqual([aborted, recorded], [[], [{ key, uploadId: '1' }]]);
  });

  it('that an earlier attempt could not record is aborted by the next, and none of another key', async () => {
    [opened, aborted] = [0, []];
    await abortUploads(key, { signal: never, log }, store);
    assert.deepEqual(aborted, ['a', 'c']);
  });
});

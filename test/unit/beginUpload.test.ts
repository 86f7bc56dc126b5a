/** No upload of a backup is left that nobody knows of; and what one is made of when it is renewed, or was ended by another. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LxstowError } from '../../services/contract/errors.ts';
import type { UploadedPart } from '../../services/storage/objectStore.ts';
import { ArchiveUpload, openUpload } from '../../services/worker/backup/archiveUpload.ts';
import { abortUploads } from '../../services/worker/backup/begin.ts';
import type { BackupStart, SentPart } from '../../services/worker/backup/checkpoint.ts';

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

describe('the upload of an archive', () => {
  const mib = 1024 ** 2;
  const upload = { key, uploadId: 'old' };
  type Parameters = ConstructorParameters<typeof ArchiveUpload>;

  /** An upload whose parts have these sizes, in a store with these calls. */
  function uploadOf(sizes: number[], calls: object): { archive: ArchiveUpload; renewed: Partial<BackupStart>[] } {
    const parts = sizes.map(
      (size, index) => ({ number: index + 1, size, etag: '0'.repeat(32), crc32: '' }) as SentPart,
    );
    const renewed: Partial<BackupStart>[] = [];
    const renew = async (facts: Partial<BackupStart>) => void renewed.push(facts);
    const checkpoint = { start: { upload } as BackupStart, parts, renew } as unknown as Parameters[0];
    const attempt = {
      ...{ operation: { checkpoint: upload }, signal: never, log: { info: () => undefined } },
      ...{ assertOwned: () => undefined, checkpoint: async () => undefined },
    } as unknown as Parameters[2];
    const archive = new ArchiveUpload(checkpoint, { key, tags: {}, contentType: '' }, attempt, {
      store: calls,
    } as unknown as Parameters[3]);
    return { archive, renewed };
  }

  it('is copied into a new one in parts of which none is too small for S3, and that are all of it', async () => {
    const sizes = [...Array<number>(192).fill(16 * mib), mib + 1, 7];
    const copied: { start: number; size: number }[] = [];
    const { archive, renewed } = uploadOf(sizes, {
      beginUpload: async () => ({ key, uploadId: 'new' }),
      copyPart: async (_: unknown, number: number, from: { start: number; size: number }): Promise<UploadedPart> => {
        copied.push(from);
        return { number, etag: '' };
      },
    });
    await archive.reopen('etag', never);
    let end = 0;
    for (const { start, size } of copied) {
      assert.equal(start, end);
      assert.ok(size >= 5 * mib && size <= 1024 * mib, `${size} bytes`);
      end += size;
    }
    assert.equal(
      end,
      sizes.reduce((sum, size) => sum + size, 0),
    );
    assert.equal(renewed[0]?.copied?.parts.length, copied.length);
  });

  describe('that another request has completed or aborted', () => {
    for (const code of ['conflict', 'not-found'] as const) {
      const refused = async () => Promise.reject(new LxstowError(code, 'S3 said no'));
      it(`is its archive if that is what the store has (${code})`, async () => {
        const { archive } = uploadOf([1, 2], { completeUpload: refused, stat: async () => ({ etag: archive.etag }) });
        assert.equal(await archive.complete(never), archive.etag);
      });

      it(`is a reason for another attempt if it is not (${code})`, async () => {
        for (const stat of [
          async () => ({ etag: 'another' }),
          async () => Promise.reject(new LxstowError('not-found', 'no')),
        ]) {
          const { archive } = uploadOf([1, 2], { completeUpload: refused, stat });
          await assert.rejects(archive.complete(never), { code: 's3-unavailable' });
        }
      });
    }
  });
});

/** An archive goes out by the gateway: as it is stored, in ranges, and never a byte that is not proved good. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import https from 'node:https';
import { after, before, describe, it } from 'node:test';
import type { Manifest } from '../../services/contract/schemas.ts';
import { residentMiB } from '../lab/processes.ts';
import { assertError, assertSame, openStack, type Stack, until } from './stack.ts';

interface Received {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Buffer;
  /** Whether the answer ended as it should. */
  whole: boolean;
}

describe('an export', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let name: string;
  let stored: Buffer;
  before(async () => {
    stack = await openStack('export', { config: { gateway: { transfers: 1, clientIdleTimeoutMs: 8000 } } });
    await stack.launch('c1', { dataMiB: 40 });
    // Uncompressed: parts are of 16 MiB, so there are several.
    name = await stack.backup('c1', '?compression=none');
    stored = await object(name);
  });
  after(() => stack?.[Symbol.asyncDispose]());

  const path = (backup = name, rest = '') => `/1.0/instances/c1/backups/${backup}/export${rest}`;

  async function object(backup: string): Promise<Buffer> {
    const archive = await stack.bucket().getObject(stack.s3.bucket, `local/default/c1/${backup}`);
    return Buffer.concat(await archive.toArray());
  }

  function open(method: string, where: string, headers: Record<string, string> = {}) {
    const { client, url } = stack.stow;
    return https.request(`${url}${where}`, { method, headers, ...client, rejectUnauthorized: false, agent: false });
  }

  async function fetched(where: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Received> {
    const request = open(method, where, headers).end();
    const [response] = await once(request, 'response');
    const chunks: Buffer[] = [];
    response.on('data', (chunk: Buffer) => chunks.push(chunk));
    const whole = await new Promise<boolean>((resolve) => {
      response.on('end', () => resolve(true));
      response.on('error', () => resolve(false));
      response.on('close', () => resolve(response.complete));
    });
    return { status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks), whole };
  }

  const sum = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

  it('again and again takes no more of the gateway’s memory than a few times', async () => {
    const sizes: number[] = [];
    for (let time = 0; time < 10; time++) {
      assert.ok((await fetched(path())).whole);
      sizes.push(Math.round(await residentMiB(stack.stow.gateway.pid)));
    }
    // New buffers each time would be 32 MiB each time.
    assert.ok(Math.max(...sizes) - (sizes[2] ?? 0) < 75, `${sizes} MiB`);
  });

  it('is the archive as it is stored', async () => {
    const { status, headers, body, whole } = await fetched(path());
    assert.deepEqual([status, whole, body.length, sum(body)], [200, true, stored.length, sum(stored)]);
    assert.equal(headers['content-length'], String(stored.length));
    assert.equal(headers['content-type'], 'application/x-tar');
    assert.equal(headers['accept-ranges'], 'bytes');
    assert.equal(headers['content-disposition'], `attachment; filename="c1-${name}"`);
    assert.match(String(headers.etag), /^"[0-9a-f]+-\d+"$/);
  });

  it('is in the audit trail, and so is a presigned URL, but not what it is', async () => {
    await fetched(path(), { range: 'bytes=3-5' });
    const { body } = await stack.stow.request('GET', path(name, '/url'));
    const lines = async () =>
      (await stack.stow.logOf('gateway'))
        .split('\n')
        .filter((line) => line.includes('"audit":true') && line.includes('"exported"'))
        .map((line) => JSON.parse(line));
    const found = await until(lines, (all) => all.some(({ exported }) => exported === 'url'));
    assert.equal(found.find(({ exported }) => exported === 'url').requestor.username, stack.stow.client.fingerprint);
    assert.ok(found.some(({ exported, status }) => exported.start === 3 && exported.end === 5 && status === 206));
    const { searchParams } = new URL(body.metadata.url);
    assert.ok(!(await stack.stow.logOf('gateway')).includes(String(searchParams.get('X-Amz-Signature'))));
  });

  it('says all of that to HEAD, without a body', async () => {
    const { headers, body, status } = await fetched(path(), {}, 'HEAD');
    assert.deepEqual([status, body.length], [200, 0]);
    assert.equal(headers['content-length'], String(stored.length));
  });

  it('is sent in ranges', async () => {
    const mib = 1024 * 1024;
    const size = stored.length;
    const cases: [range: string, start: number, end: number][] = [
      ['bytes=0-0', 0, 1],
      ['bytes=100-199', 100, 200],
      [`bytes=${16 * mib - 1}-${16 * mib}`, 16 * mib - 1, 16 * mib + 1],
      [`bytes=${17 * mib}-`, 17 * mib, size],
      ['bytes=-1000', size - 1000, size],
      [`bytes=5-${size + 5}`, 5, size],
    ];
    for (const [range, start, end] of cases) {
      const { status, headers, body, whole } = await fetched(path(), { range });
      assert.deepEqual([status, whole], [206, true], range);
      assert.equal(headers['content-range'], `bytes ${start}-${end - 1}/${size}`);
      assert.equal(headers['content-length'], String(end - start));
      assert.ok(body.equals(stored.subarray(start, end)), range);
    }
  });

  it('is sent whole where the range is none, or of another archive', async () => {
    const { etag } = (await fetched(path(), {}, 'HEAD')).headers;
    const ask = async (headers: Record<string, string>) => (await fetched(path(), headers, 'HEAD')).status;
    assert.equal(await ask({ range: 'bytes=5-1' }), 416);
    assert.equal(await ask({ range: 'lines=1-2' }), 200);
    assert.equal(await ask({ range: 'bytes=0-1,4-5' }), 200);
    assert.equal(await ask({ range: 'bytes=0-1', 'if-range': String(etag) }), 206);
    assert.equal(await ask({ range: 'bytes=0-1', 'if-range': '"another"' }), 200);
    assert.equal(await ask({ 'if-none-match': String(etag) }), 304);
    assert.equal(await ask({ 'if-match': '"another"' }), 412);
    const beyond = await stack.stow.request('GET', path(), { headers: { range: `bytes=${stored.length}-` } });
    assertError(beyond, 416, /has \d+ bytes/);
    assert.equal(beyond.headers['content-range'], `bytes */${stored.length}`);
  });

  it('of a backup that is not there is refused', async () => {
    assertError(await stack.stow.request('GET', path('nothing.tar')), 404, /backup c1\/nothing.tar does not exist/);
    assertError(await stack.stow.request('POST', path()), 405, /allowed: GET/);
  });

  it('is what lxc import takes', async (context) => {
    if (!stack.lab.lxd) return context.skip(`no real LXD: ${stack.lab.lxdUnavailable}`);
    const files = await stack.fingerprint('c1');
    const gzip = await stack.backup('c1', '?compression=gzip');
    const { body } = await fetched(path(gzip));
    await stack.lab.lxd.lxc(['import', '-', 'exported'], { input: body });
    assertSame(await stack.fingerprint('exported'), files);
    await stack.remove('exported');
  });

  it('has a URL for those without a certificate', async () => {
    const answer = await stack.stow.request('GET', path(name, '/url?expiry=60'));
    const { url, expires_at, size } = answer.body.metadata;
    assert.equal(size, stored.length);
    const left = Date.parse(expires_at) - Date.now();
    assert.ok(left > 0 && left <= 60_000, expires_at);
    const response = await fetch(url, { headers: { range: 'bytes=10-19' } });
    assert.equal(response.headers.get('content-disposition'), `attachment; filename="c1-${name}"`);
    assert.ok(Buffer.from(await response.arrayBuffer()).equals(stored.subarray(10, 20)));
    assertError(await stack.stow.request('GET', path(name, '/url?expiry=week')), 400, /expiry/);
    assertError(await stack.stow.request('GET', path('nothing.tar', '/url')), 404, /does not exist/);
  });

  describe('whose client reads no further', () => {
    it('keeps the backup from being deleted, and its place, until it is given up', async () => {
      const request = open('GET', path()).end();
      try {
        await once(request, 'response');
        assertError(await stack.stow.request('GET', path()), 503, /1 exports and uploads are under way/);
        assertError(await stack.stow.request('DELETE', path().replace('/export', '')), 409, /restored or exported/);
        await until(
          () => stack.stow.logOf('gateway'),
          (log) => log.includes('made no progress for 8 s'),
        );
        const free = await until(
          () => fetched(path()),
          ({ status }) => status === 200,
        );
        assert.equal(sum(free.body), sum(stored));
      } finally {
        request.on('error', () => undefined).destroy();
      }
    });
  });

  describe('of an archive that is damaged', () => {
    /** Another archive in its place, which the manifest was made to fit but for the parts' sums. */
    async function damaged(part: number): Promise<string> {
      const backup = await stack.backup('c1', '?compression=none');
      const bytes = await object(backup);
      const key = `local/default/c1/${backup}`;
      const bucket = stack.bucket();
      const manifest = await read<Manifest>(`${key}.manifest.json`);
      const start = manifest.archive.parts.slice(0, part - 1).reduce((at, { size }) => at + size, 0);
      bytes.writeUInt8(bytes.readUInt8(start + 5) ^ 1, start + 5);
      await bucket.putObject(stack.s3.bucket, key, bytes);
      const { etag } = await bucket.statObject(stack.s3.bucket, key);
      manifest.archive.etag = etag;
      await bucket.putObject(stack.s3.bucket, `${key}.manifest.json`, JSON.stringify(manifest));
      return backup;
    }

    async function read<T>(key: string): Promise<T> {
      const chunks = await (await stack.bucket().getObject(stack.s3.bucket, key)).toArray();
      return JSON.parse(Buffer.concat(chunks).toString()) as T;
    }

    it('is cut before the first bad byte, and the part is named', async () => {
      const backup = await damaged(2);
      const { status, body, whole } = await fetched(path(backup));
      assert.deepEqual([status, whole], [200, false]);
      assert.ok(body.length <= 16 * 1024 * 1024, `${body.length} bytes came`);
      const line = await until(
        async () =>
          (await stack.stow.logOf('gateway'))
            .split('\n')
            .find((each) => each.includes('export cut') && each.includes(backup)),
        (found) => found !== undefined,
      );
      assert.match(String(line), /part 2 of \d+ is damaged/);
      const good = await fetched(path(backup), { range: 'bytes=0-999' });
      assert.deepEqual([good.status, good.whole, good.body.length], [206, true, 1000]);
    });

    it('is refused in an envelope where the first part is bad', async () => {
      const backup = await damaged(1);
      const answer = await stack.stow.request('GET', path(backup), { headers: { range: 'bytes=1000-1999' } });
      assertError(answer, 500, /part 1 of \d+ is damaged/);
    });

    it('is refused where the archive is another, or gone', async () => {
      const backup = await stack.backup('c1', '?compression=none');
      await stack.bucket().putObject(stack.s3.bucket, `local/default/c1/${backup}`, Buffer.alloc(1000));
      assertError(await stack.stow.request('GET', path(backup)), 500, /has 1000 bytes, but its manifest says/);
      await stack.bucket().removeObject(stack.s3.bucket, `local/default/c1/${backup}`);
      assertError(await stack.stow.request('GET', path(backup)), 500, /is gone or was replaced/);
    });
  });

  it('leaves no claim behind, so that its backup can be deleted at once', async () => {
    const { whole } = await fetched(path());
    assert.ok(whole);
    const gone = await stack.stow.request('DELETE', path().replace('/export', ''));
    assert.equal(gone.status, 200, gone.text);
  });
});

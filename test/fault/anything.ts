/** Arbitraries of what nobody should send: requests, job messages, manifests, each near enough to a good one to get somewhere. */
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';

/** Values that somebody forgot to think of. */
const nasty: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom<unknown>(
    ...[null, true, -1, 0, 1.5, 2 ** 53, 1e308, -1e308, [], {}, [[]], { toString: 1 }],
    ...['', ' ', '..', '../../etc/passwd', '\u0000', '\u{1f4a9}', '__proto__', 'constructor', 'x'.repeat(5000)],
  ),
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.jsonValue({ maxDepth: 3 }),
);

const nestings = 50_000;
/** Text that means to be JSON, and what only looks like it. */
const jsonText: fc.Arbitrary<string> = fc.oneof(
  nasty.map((value) => JSON.stringify(value)),
  fc.constantFrom(
    ...['[', '{"a":', ']', '}'].map((piece) => piece.repeat(nestings)),
    `${'['.repeat(nestings)}${']'.repeat(nestings)}`,
    ...[
      '1e999',
      '-',
      '{"a":1,"a":2}',
      '\ufeff{}',
      '{}{}',
      'NaN',
      '"\\ud800"',
      '{"__proto__":{"name":"x"}}',
      '""',
      'null',
    ],
  ),
);

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

/** An object with some of these fields, their values good or nasty, and sometimes one more. */
function bodyLike(fields: Record<string, unknown[]>): fc.Arbitrary<string> {
  const entry = fc.oneof(
    ...Object.entries(fields).map(([name, values]) =>
      fc.tuple(fc.constant(name), fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...values) }, nasty)),
    ),
    { weight: 1, arbitrary: fc.tuple(fc.constantFrom('__proto__', 'constructor', 'nmae', '', 'requestor'), nasty) },
  );
  const pair = ([name, value]: [string, unknown]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`;
  return fc
    .array(entry as fc.Arbitrary<[string, unknown]>, { maxLength: 4 })
    .map((each) => `{${each.map(pair).join()}}`);
}

const createBody = bodyLike({
  name: ['a-name', 'x.tar', 7],
  compression_algorithm: ['none', 'gzip', 'xz'],
  optimized_storage: [true, 'yes'],
  instance_only: [false, 0],
  expires_at: ['2030-01-01T00:00:00Z', 'soon'],
});
const restoreBody = bodyLike({
  name: ['c9', 'a/b'],
  project: ['default', 'mars'],
  target: ['local', 'mars'],
  pool: ['bt', 'mars'],
  start: [true, 'no'],
  replace: [true, 'no'],
});

/** No run of these makes a backup: no instance has such a name. */
const selectors = [
  { instances: ['nobody', 'n*'] },
  { instances: ['?'.repeat(63)] },
  { match: ['constructor'] },
  { all: 1 },
];
const rules = [
  { keep_last: 1 },
  { keep_within: '9999y9999m9999d9999h', zone: 'Europe/Berlin' },
  { keep_tags: ['a=b'] },
  {},
];
const times = ['2999-01-01T00:00:00Z', '2026-12-31T23:59:60Z', '2999-01-01T00:00:00+01', '+010000-01-01T00:00:00Z'];
const scheduleFields: Record<string, unknown[]> = {
  cron: ['@yearly', '0 0 29 2 *', '0 0 30 2 *', '59/59 */23 1-31 jan-dec 0-7', 'constructor', '* * * *'],
  zone: ['Europe/Berlin', 'UTC', '+05:30', 'constructor', '../x'],
  window: ['00:00-23:59', '23:59-00:00', '24:00-25:00'],
  jitter: ['30m', '9999h', '0s'],
  selector: selectors,
  keep: rules,
  tags: [{ a: 'b' }, { constructor: 'x' }],
};
/** With a field that must be there; a later one of the same name counts. */
const having = (field: string, body: fc.Arbitrary<string>) =>
  body.map((text) => text.replace('{', text === '{}' ? `{${field}` : `{${field},`));
const scheduleBody = having('"cron":"0 0 29 2 *"', bodyLike(scheduleFields));
const schedulesBody = fc
  .tuple(fc.constantFrom('s1', 's2', 'S', '..', '*'), scheduleBody)
  .map(([name, definition]) => `{"name":${JSON.stringify(name)},"definition":${definition}}`);
const pauseBody = bodyLike({ until: times, reason: ['x', '\u001b[0m', '\u0000'] });
const runBody = having(
  '"selector":{"all":true,"projects":["mars"]}',
  bodyLike({ selector: selectors, keep: rules, id: ['x', '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11'] }),
);
const pruneBody = having(
  '"keep":{"keep_last":1}',
  bodyLike({ keep: rules, instances: [['nobody'], []], dry_run: [true, 1] }),
);
const updateBody = bodyLike({ pinned: [true, null], notes: ['x', '\u0000'], tags: [{ a: null }, { constructor: '' }] });

// ---- HTTP

interface AnyRequest {
  method: string;
  bytes: Buffer;
}

const piece: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(
    'c1',
    'nobody',
    '*',
    'all',
    '.',
    '..',
    '%2e%2e',
    '%2F',
    '%00',
    '%',
    '%E0%A4%A',
    '%C0%AF',
    '__proto__',
    '',
  ),
  fc.string({ unit: 'binary', maxLength: 20 }).map(encodeSafely),
  fc.constantFrom('x'.repeat(300), 'x'.repeat(9000), '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11', '-'.repeat(64)),
  // As they are, but what would end the line.
  fc.string({ unit: 'binary-ascii', maxLength: 20 }).map((text) => text.replaceAll(/[\0-\x20\x7f]/g, '')),
);

function encodeSafely(text: string): string {
  return encodeURIComponent(text.toWellFormed());
}

const query: fc.Arbitrary<string> = fc
  .array(
    fc.tuple(
      fc.constantFrom(
        'project',
        'target',
        'compression',
        'optimize',
        'recursion',
        'all-projects',
        'timeout',
        'name',
        'x[y]',
      ),
      fc.oneof(fc.constantFrom('default', 'local', 'gzip', 'true', '1', '0', '-1', '1e999', 'NaN'), piece),
    ),
    { maxLength: 4 },
  )
  .map((pairs) => (pairs.length === 0 ? '' : `?${pairs.map(([name, value]) => `${name}=${value}`).join('&')}`));

const path: fc.Arbitrary<string> = fc
  .tuple(
    fc.oneof(
      fc.tuple(piece).map(([instance]) => `/1.0/instances/${instance}/backups`),
      fc.tuple(piece, piece).map(([instance, backup]) => `/1.0/instances/${instance}/backups/${backup}`),
      piece.map((id) => `/1.0/operations/${id}`),
      piece.map((id) => `/1.0/operations/${id}/wait`),
      fc.constantFrom('/', '/1.0', '/1.0/operations', '//1.0', '/1.0/./operations', '*', 'https://else.where/1.0'),
      fc.array(piece, { maxLength: 6 }).map((pieces) => `/${pieces.join('/')}`),
    ),
    query,
  )
  .map((parts) => parts.join(''));

const methodName = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom('GET', 'POST', 'DELETE') },
  fc.constantFrom('PUT', 'PATCH', 'HEAD', 'OPTIONS', 'TRACE', 'BREW', 'get'),
);

const printable = fc.string({ unit: 'grapheme-ascii', maxLength: 60 });
const latin = fc.string({ unit: 'binary-ascii', maxLength: 60 }).map((text) => text.replaceAll(/[\r\n\0]/g, ''));
const header: fc.Arbitrary<string> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.constantFrom('x-amz-tagging', 'content-type', 'accept', 'cookie', 'x-forwarded-for'), printable)
      .map((pair) => pair.join(': ')),
  },
  {
    weight: 4,
    arbitrary: fc.constantFrom(
      'x-amz-tagging: a=1&a=2',
      'x-amz-tagging: %zz=%',
      'x-amz-tagging: __proto__=1&constructor=2',
      `x-amz-tagging: ${'k=v&'.repeat(2000)}`,
      `x-large: ${'x'.repeat(20_000)}`,
      'content-type: application/json; charset=utf-7',
      'content-type: application/json; charset=utf-16le',
      'content-type: multipart/form-data; boundary=',
      'content-encoding: br',
      'content-encoding: gzip',
      'content-encoding: none of these',
      'expect: 100-continue',
      'expect: everything',
      'upgrade: websocket\r\nconnection: upgrade',
      'range: bytes=0-',
      'host: two',
      'transfer-encoding: identity',
    ),
  },
  latin,
);

/** Calls whose body is meant for their path. */
const fitting: fc.Arbitrary<[method: string, path: string, body: string]> = fc.oneof(
  fc.tuple(fc.constant('POST'), fc.constant('/1.0/schedules'), schedulesBody),
  fc.tuple(fc.constant('PUT'), fc.constantFrom('/1.0/schedules/s1', '/1.0/schedules/s2'), scheduleBody),
  fc.tuple(fc.constant('POST'), fc.constant('/1.0/schedules/s1/pause'), pauseBody),
  fc.tuple(fc.constant('POST'), fc.constantFrom('/1.0/schedules/s1/resume', '/1.0/schedules/s1/run'), jsonText),
  fc.tuple(fc.constantFrom('GET', 'DELETE'), fc.constantFrom('/1.0/schedules/s1', '/1.0/schedules'), fc.constant('')),
  fc.tuple(fc.constant('POST'), fc.constant('/1.0/runs'), runBody),
  fc.tuple(fc.constant('POST'), fc.constantFrom('/1.0/prune', '/1.0/prune?project=mars'), pruneBody),
  fc.tuple(fc.constantFrom('PUT', 'PATCH'), fc.constant('/1.0/instances/c1/backups/x'), updateBody),
  fc.tuple(
    fc.constant('GET'),
    fc
      .tuple(
        fc.constantFrom('schedules?recursion=1', 'schedules/s1/next', 'runs', 'status', 'operations'),
        fc.constantFrom('limit', 'after', 'count', 'state', 'older-than', 'filter', 'instances'),
        fc.oneof(fc.constantFrom('1', '0', '99999d', 'ok', 'true', '1000'), piece),
      )
      .map(([path, key, value]) => `/1.0/${path}${path.includes('?') ? '&' : '?'}${key}=${value}`),
    fc.constant(''),
  ),
);

type Framing = 'length' | 'too long' | 'too short' | 'chunked' | 'chunks cut' | 'no chunks' | 'both' | 'none';

function framed(body: Buffer, framing: Framing): [header: string, body: Buffer] {
  const chunks = Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n')]);
  const end = Buffer.from('0\r\n\r\n');
  const chunked = 'transfer-encoding: chunked\r\n';
  switch (framing) {
    case 'length':
      return [`content-length: ${body.length}\r\n`, body];
    case 'too long':
      return [`content-length: ${body.length + 10}\r\n`, body];
    case 'too short':
      return [`content-length: ${Math.floor(body.length / 2)}\r\n`, body];
    case 'chunked':
      return [chunked, body.length > 0 ? Buffer.concat([chunks, end]) : end];
    case 'chunks cut':
      return [chunked, chunks];
    case 'no chunks':
      return [chunked, body];
    case 'both':
      return [`content-length: ${body.length}\r\n${chunked}`, Buffer.concat([chunks, end])];
    case 'none':
      return ['', body];
  }
}

const largeBody = 3_000_000;
const requestBody: fc.Arbitrary<Buffer> = fc.oneof(
  fc.constant(Buffer.alloc(0)),
  { weight: 4, arbitrary: fc.oneof(createBody, restoreBody, jsonText).map((text) => Buffer.from(text)) },
  bytes(200),
  fc.oneof(createBody, jsonText).map((text) => gzipSync(text)),
  fc.constantFrom(
    Buffer.alloc(largeBody, ' '),
    gzipSync(Buffer.alloc(largeBody * 10, '[')),
    Buffer.from('{}', 'utf16le'),
  ),
);

/** Bytes of one request, mostly HTTP. */
export const anyRequest: fc.Arbitrary<AnyRequest> = fc.oneof(
  {
    weight: 20,
    arbitrary: fc
      .record({
        method: methodName,
        path,
        headers: fc.array(header, { maxLength: 3 }),
        body: requestBody,
        framing: fc.oneof(
          { weight: 5, arbitrary: fc.constant<Framing>('length') },
          fc.constantFrom<Framing>('too long', 'too short', 'chunked', 'chunks cut', 'no chunks', 'both', 'none'),
        ),
      })
      .map(({ method, path, headers, body, framing }) => {
        const [length, sent] = framed(body, framing);
        const lines = headers.map((line) => `${line}\r\n`).join('');
        const head = `${method} ${path} HTTP/1.1\r\nhost: lxstow\r\nconnection: close\r\n${lines}${length}\r\n`;
        return { method, bytes: Buffer.concat([Buffer.from(head, 'latin1'), sent]) };
      }),
  },
  {
    weight: 10,
    arbitrary: fitting.map(([method, path, body]) => {
      const head = `${method} ${path} HTTP/1.1\r\nhost: lxstow\r\nconnection: close\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n`;
      return { method, bytes: Buffer.concat([Buffer.from(head, 'latin1'), Buffer.from(body)]) };
    }),
  },
  bytes(300).map((random) => ({ method: '', bytes: random })),
);

// ---- jobs

interface AnyMessage {
  subject: string;
  data: Buffer;
  messageId: string | undefined;
  headers: [name: string, value: string][];
}

/** Not DEL: a work queue of nats-server 2.15.1 takes a subject with 0x7f in it, and never delivers it. */
const token = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom('c1', 'nobody', 'default', 'mars') },
  fc.constantFrom('=2E=2E', '=00', '=', '=ZZ', '=2F', '=FF=FE', '__proto__', '$', '-', '0', 'x'.repeat(200), 'ü', '💩'),
  fc
    .string({ unit: 'binary-ascii', minLength: 1, maxLength: 12 })
    .map((text) => text.replaceAll(/[\s\0\x7f.*>]/g, '-')),
);
const jobBody = bodyLike({
  backup: ['../x', 'no-such-backup', 'x.tar.zst', 7],
  compression: ['none', 'xz'],
  optimized: [true, 'yes'],
  tags: [{ a: 'b' }, { 'aws:x': 'y' }, { a: 1 }],
  source: [{ instance: 'c1' }, { remote: 'mars' }, []],
  pool: ['bt', 'mars', '..'],
  requestor: [{ username: 'x' }, 'me'],
});
const uuids = ['3f0c6f9e-0a51-4b8e-9c56-0f5d3b0a7c11', '3F0C6F9E-0A51-4B8E-9C56-0F5D3B0A7C12'];
/** NATS takes 256 KiB in this stream. */
const largestMessage = 250_000;

export const anyMessage: fc.Arbitrary<AnyMessage> = fc.record({
  subject: fc
    .tuple(
      fc.constantFrom('local', 'local', 'local', 'mars'),
      fc.constantFrom('backup', 'restore', 'delete', 'explode'),
      token,
      token,
    )
    .map((tokens) => `lxstow.jobs.${tokens.join('.')}`),
  data: fc.oneof(
    { weight: 3, arbitrary: fc.oneof(jobBody, jsonText).map((text) => Buffer.from(text)) },
    bytes(200),
    fc.constantFrom(
      Buffer.alloc(largestMessage, ' '),
      Buffer.from(JSON.stringify({ backup: 'x'.repeat(largestMessage) })),
    ),
  ),
  messageId: fc.option(fc.oneof(fc.constantFrom(...uuids), fc.uuid(), latin), { nil: undefined, freq: 3 }),
  headers: fc.array(
    fc.tuple(
      fc.constantFrom(
        'Who',
        'Lxstow-Operation',
        'Lxstow-Error-Code',
        'Lxstow-Sequence',
        'Nats-TTL',
        'Nats-Expected-Stream',
        // NATS takes such names; its clients do not.
        ...['Foo Bar', 'Naïve', '\u007f', ''],
      ),
      fc.oneof(fc.constantFrom('1', '', 'LXSTOW_JOBS'), latin),
    ),
    { maxLength: 2 },
  ),
});

// ---- manifests

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

function pathsOf(value: Json, path: string[] = []): string[][] {
  if (value === null || typeof value !== 'object') return [path];
  return [path, ...Object.entries(value).flatMap(([key, child]) => pathsOf(child as Json, [...path, key]))];
}

function changed(good: string, path: string[], change: (parent: Record<string, unknown>, key: string) => void): string {
  const whole = { root: JSON.parse(good) as unknown };
  let parent = whole as Record<string, unknown>;
  let key = 'root';
  for (const next of path) {
    parent = parent[key] as Record<string, unknown>;
    key = next;
  }
  change(parent, key);
  return JSON.stringify(whole.root) ?? '';
}

/** This manifest with one or two things wrong, or something else in its place. */
export function anyManifest(good: string): fc.Arbitrary<Buffer> {
  const paths = pathsOf(JSON.parse(good) as Json);
  const where = fc.constantFrom(...paths);
  const manifest = JSON.parse(good) as { archive: { parts: object[]; size: number; rawSize: number } };
  const { archive } = manifest;
  const [part] = archive.parts;
  const withArchive = (over: object) => JSON.stringify({ ...manifest, archive: { ...archive, ...over } });
  const large = 2 ** 50;
  const change = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.tuple(where, nasty).map(
        ([path, value]) =>
          (text: string) =>
            changed(text, path, (parent, key) => {
              parent[key] = value;
            }),
      ),
    },
    {
      weight: 2,
      arbitrary: where.map(
        (path) => (text: string) =>
          changed(text, path, (parent, key) => {
            delete parent[key];
          }),
      ),
    },
    fc.tuple(where, nasty).map(
      ([path, value]) =>
        (text: string) =>
          changed(text, path, (parent, key) => {
            const inside = parent[key];
            if (inside !== null && typeof inside === 'object') (inside as Record<string, unknown>).added = value;
          }),
    ),
  );
  return fc
    .oneof(
      { weight: 10, arbitrary: change.map((apply) => apply(good)) },
      { weight: 3, arbitrary: jsonText },
      fc.constantFrom(
        good,
        good.slice(0, -20),
        `${good}${good}`,
        withArchive({ parts: Array.from({ length: 10_000 }, (_, index) => ({ ...part, number: index + 1 })) }),
        withArchive({ parts: Array.from({ length: 20_000 }, () => part) }),
        // They add up, but nobody has so much memory.
        withArchive({ size: large, rawSize: large, parts: [{ ...part, size: large, rawEnd: large }] }),
        withArchive({ rawSize: large, parts: [{ ...part, rawEnd: large }] }),
        withArchive({ blockSize: 1 }),
        withArchive({ blockSize: 1e308 }),
        withArchive({ compression: 'none' }),
        withArchive({ compression: 'zstd' }),
      ),
    )
    .map((text) => Buffer.from(text));
}

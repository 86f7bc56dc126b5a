/** What clients that are restricted to projects may not bring into LXD, however it is hidden. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ConfigFiles } from '../../services/archive/tar/configFiles.ts';
import { parseConfigFile, parseIndex } from '../../services/archive/tar/indexYaml.ts';
import { TarScanner } from '../../services/archive/tar/tar.ts';
import { completed } from '../../services/archive/tar/tarHead.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import { judgeOf } from '../../services/gateway/access/allowedContent.ts';
import { parseJob } from '../../services/jobs/jobs.ts';
import { forbiddenFor, forbiddenIn } from '../../services/lxd/restrictions.ts';
import { jobSubject, parseJobSubject } from '../../services/nats/subjects.ts';
import { entriesOf, tarOf } from '../lab/tar.ts';

const harmless = {
  config: {
    'image.os': 'alpine',
    'limits.memory': '1GiB',
    'security.privileged': 'false',
    'security.syscalls.intercept.mknod': 'false',
    'user.note': 'raw.lxc',
  },
  devices: {
    root: { type: 'disk', path: '/', pool: 'ssd' },
    data: { type: 'disk', path: '/data', pool: 'ssd', source: 'data' },
    seed: { type: 'disk', source: 'cloud-init:config' },
    eth0: { type: 'nic', network: 'lxdbr0', name: 'eth0' },
    eth1: { type: 'none' },
  },
};

describe('what a restricted project would not take', () => {
  it('is nothing of an ordinary instance', () => assert.deepEqual(forbiddenIn(harmless), []));

  const config: [key: string, value: string][] = [
    ['security.privileged', 'true'],
    ['security.privileged', '1'],
    ['security.privileged', 'YES'],
    ['security.nesting', 'on'],
    ['raw.lxc', 'lxc.hook.pre-start = /bin/sh'],
    ['raw.qemu', '-device x'],
    ['raw.qemu.conf', '[chardev]'],
    ['raw.apparmor', 'mount,'],
    ['raw.idmap', 'both 0 0'],
    ['security.syscalls.deny_default', 'false'],
    ['security.syscalls.intercept.mount', 'true'],
    ['linux.kernel_modules', 'evil'],
    ['security.idmap.base', '0'],
    ['limits.memory.hugepages', 'true'],
  ];
  for (const [key, value] of config)
    it(`is ${key}=${value}`, () => assert.deepEqual(forbiddenIn({ config: { [key]: value }, devices: {} }), [key]));

  const devices: Record<string, string>[] = [
    ...['unix-char', 'unix-block', 'unix-hotplug', 'gpu', 'usb', 'pci', 'infiniband', 'proxy'].map((type) => ({
      type,
    })),
    { type: 'disk', source: '/', path: '/mnt' },
    { type: 'disk', source: 'ceph:pool/vol', path: '/mnt' },
    { type: 'disk', path: '/', pool: 'ssd', 'raw.mount.options': 'dev' },
    { type: 'nic', nictype: 'physical', parent: 'eth0' },
    { type: 'of-tomorrow' },
    {},
  ];
  for (const device of devices)
    it(`is a device ${JSON.stringify(device)}`, () =>
      assert.match(forbiddenIn({ config: {}, devices: { d: device } }).join(), /^device d \(/));

  it('is counted in profiles that would be made, and not where LXD decides by itself', () => {
    const profile = { name: 'p', description: '', config: { 'raw.lxc': 'x' }, devices: {} };
    const instance = { ...harmless, profiles: [profile] };
    assert.deepEqual(forbiddenFor(instance, { restricted: false, profiles: ['p'] }), []);
    assert.match(forbiddenFor(instance, { restricted: false, profiles: [] }).join(), /raw\.lxc in profile p/);
    assert.deepEqual(forbiddenFor(instance, { restricted: true, profiles: [] }), []);
  });

  it('is a profile that would be made in another project', () => {
    const instance = { ...harmless, profiles: [{ name: 'p', description: '', config: {}, devices: {} }] };
    for (const restricted of [false, true]) {
      const limits = { restricted, sharedProfiles: true };
      assert.match(forbiddenFor(instance, { ...limits, profiles: [] }).join(), /^profile p, .* in project default$/);
      assert.deepEqual(forbiddenFor(instance, { ...limits, profiles: ['p'] }), []);
    }
  });
});

const index = (config = 'config: {user.x: y}') =>
  `name: c1\nbackend: dir\npool: default\noptimized: false\ntype: container\nconfig:\n  container:\n    name: c1\n    ${config}\n    devices: {root: {type: disk, path: /, pool: default}}\n`;
const evil = 'config: {security.privileged: "true"}';
const configFile = (config = 'config: {user.x: y}') => `container:\n  name: c1\n  ${config}\n  devices: {}\n`;

/** The tar in chunks, as it comes in, with what a restore would add to it. */
async function restorable(tar: Buffer, size = 1000): Promise<Buffer> {
  const chunks = Array.from({ length: Math.ceil(tar.length / size) }, (_, i) => tar.subarray(i * size, (i + 1) * size));
  return Buffer.concat(await Readable.from(completed(Readable.from(chunks))).toArray());
}

/** What becomes of an archive with these entries behind its index: the refusal, or undefined. */
async function judged(
  entries: Parameters<typeof entriesOf>[0],
  limits?: { restricted: boolean; profiles: string[] },
  text = index(),
) {
  const judge = judgeOf(parseIndex(Buffer.from(text), true), { instance: 'c1' }, limits);
  const scanner = new TarScanner('the archive', judge.onEntry);
  try {
    scanner.push(await restorable(entriesOf([{ name: 'backup/index.yaml', text }, ...entries])));
    await judge.finish();
  } catch (error) {
    assert.ok(error instanceof LxstowError, String(error));
    return `${error.code}: ${error.message}`;
  }
  return undefined;
}

const own = 'backup/container/backup.yaml';
const anyName = fc.constantFrom(
  ...[own, `./${own}`, 'backup//container/backup.yaml', `/${own}`, 'backup/container/rootfs/x', 'backup/container/x'],
  ...[
    'backup/container/',
    'backup/container',
    'backup.yaml',
    'x',
    'backup/container/rootfs/../backup.yaml',
    'backup/virtual-machine/backup.yaml',
  ],
);
const anyPax = fc.oneof(
  fc
    .tuple(fc.constantFrom('path', ' path', 'GNU.sparse.name', 'size', 'linkpath', 'comment'), anyName)
    .map(([key, value]) => ({ pax: { [key]: key === 'size' ? '6' : value } })),
  fc
    .tuple(
      fc.constantFrom('path', 'pa\0th', 'GNU.sparse.name'),
      anyName,
      fc.constantFrom('\0', '\0zz', '\n', ' ', '\xff'),
    )
    .map(([key, value, end]) => ({ pax: { [key]: `${value}${end}` } })),
  fc
    .tuple(
      fc.constantFrom('', ' ', '0', '\t', '\n'),
      fc.constantFrom(' ', '  ', '\t'),
      fc.integer({ min: 34, max: 42 }),
    )
    .map(([before, blank, length]) => ({ rawPax: `${before}${length}${blank}path=${own}\n` })),
);
const anyHeader = fc
  .tuple(
    fc.constantFrom('ustar\x0000', 'ustar  \0', '\0\0\0\0\0\0\0\0'),
    fc.constantFrom('', '', 'x', 'backup', 'backup/container'),
    fc.constantFrom('', '', '', '00000001000\0', '0000000000x\0', '6 \0', ' 6\0'),
  )
  .map(([magic, prefix, size]) => ({
    change: (header: Buffer) => {
      header.write(magic, 257, 'latin1');
      header.write(prefix, 345, 'latin1');
      if (size) header.write(size, 124, 'latin1');
    },
  }));
const file = { name: 'backup/container/rootfs/x', type: '0' };
/** One byte of a header, or of a right pax record or long name, is another. */
const anyByte = fc
  .tuple(
    fc.constantFrom('header', 'pax', 'longName'),
    fc.nat(511),
    fc.oneof(fc.constantFrom(0, 10, 32, 47), fc.nat(255)),
  )
  .map(([where, at, byte]) => {
    const path = `38 path=${own}\n`;
    const changed = (text: string) =>
      text.slice(0, at % text.length) + String.fromCharCode(byte) + text.slice((at % text.length) + 1);
    if (where === 'pax') return { rawPax: changed(path) };
    if (where === 'longName') return { longName: changed(`${own}\0..`) };
    return { change: (header: Buffer) => void header.writeUInt8(byte, at) };
  });
const anyType = fc.constantFrom('0', '\0', '1', '2', '5', '7', 'g', 'x', 'X', 'K', 'S', 'M');
/** Odd in one way each. */
const anyEntry = fc.oneof(
  anyName.map((name) => ({ ...file, name })),
  anyType.map((type) => ({ ...file, type })),
  anyPax.map((pax) => ({ ...file, ...pax })),
  anyName.map((longName) => ({ ...file, longName })),
  fc.tuple(anyName, anyHeader).map(([name, header]) => ({ ...file, name, ...header })),
  fc.tuple(anyName, anyType, anyByte).map(([name, type, byte]) => ({ name, type, ...byte })),
);
const description = { name: 'backup/index.yaml', type: '0', text: index() };
/** With a harmless one, before or behind; with none, where a restore adds it. */
const anyEntries = fc
  .tuple(fc.array(anyEntry, { maxLength: 2 }), fc.array(anyEntry, { maxLength: 2 }), fc.nat(3))
  .map(([before, behind, kind]): Parameters<typeof entriesOf>[0] => [
    ...(kind === 1 ? [description] : []),
    ...before,
    ...(kind > 1 ? [description] : []),
    ...(kind < 3 ? [{ name: own, type: '0' }] : []),
    ...behind,
  ]);

/** What LXD's tar makes of it. */
async function unpacked(tar: Buffer): Promise<string | undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'lxstow-tar-'));
  try {
    const args = ['-xf', '-', '--restrict', '--force-local', '--numeric-owner', '-C', folder, 'backup'];
    const child = spawn('tar', args, { stdio: ['pipe', 'ignore', 'ignore'] });
    child.stdin.on('error', () => undefined).end(tar);
    await once(child, 'exit');
    for (const kind of ['container', 'virtual-machine']) {
      const found = await readFile(join(folder, 'backup', kind, 'backup.yaml'), 'utf8').catch(() => undefined);
      if (found !== undefined) return found;
    }
    return undefined;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

describe('an archive of a client that is restricted to projects', () => {
  it('is taken where LXD made it of an ordinary container', async () => {
    assert.equal(await judged([{ name: 'backup/container/backup.yaml', text: configFile() }]), undefined);
  });

  const volume = [
    { name: 'backup/container/', type: '5' },
    { name: 'backup/container/metadata.yaml', text: 'x' },
  ];
  it('is taken without a backup.yaml, as Debian 13’s LXD makes it, and judged by the one that a restore adds', async () => {
    assert.equal(await judged(volume), undefined);
    // LXD decides by the index, and nothing more is in what is added.
    assert.equal(await judged(volume, { restricted: true, profiles: [] }, index(evil)), undefined);
    const other = '  instance:\n    name: c1\n    config:\n      raw.lxc: x\n';
    await assert.rejects(judged(volume, undefined, `${index()}${other}`), { code: 'forbidden', message: /raw\.lxc/ });
  });

  it('may have links and devices in its root', async () => {
    const target = (text: string) => ({ change: (header: Buffer) => void header.write(text, 157) });
    const inside = ['backup/container/rootfs', 'backup/snapshots/first/rootfs'].flatMap((root) => [
      { name: `${root}/a`, type: '1', ...target(`${root}/b/c`) },
      { name: `${root}/l`, type: '1', longLink: `${root}/${'d/'.repeat(60)}e`, ...target(`${root}/d/d`) },
      { name: `${root}/s`, type: '2', ...target('/etc/shadow') },
      { name: `${root}/container.bin` },
      { name: `${root}/n`, type: '3' },
    ]);
    assert.equal(await judged([...volume, ...inside]), undefined);
  });

  for (const optimized of ['yes', 'on', 'y', 'True', '~', '1', '"yes"', ''])
    it(`is refused where it says optimized: ${optimized}`, () => {
      const text = Buffer.from(index().replace('optimized: false', `optimized: ${optimized}`));
      assert.throws(() => parseIndex(text, true), { code: 'bad-request', message: /neither true nor false/ });
    });

  const unclear: [what: string, text: string][] = [
    ['in a quoted value', `description: "x\nconfig:\n  container: {}\n"\n${index()}`],
    ['under a quoted key', index().replace('config:', '"config":')],
    ['in a second one', `${index()}config:\n  container: {config: {raw.lxc: x}}\n`],
    ['in a flow', 'name: c1\nconfig: {container: {name: c1, config: {a: b}, devices: {}}}\n'],
    ['behind a comment', `${index()}# config:\n#   container: {}\n`],
  ];
  for (const [what, text] of unclear)
    it(`is refused without a backup.yaml where its index could have a config ${what}`, async () => {
      const found = await judged(volume, undefined, text).catch((error) => `${error.code}: ${error.message}`);
      assert.match(String(found), /^(forbidden: .*it has no backup\.yaml|bad-request: )/);
    });

  it('is refused for what its index says, but where LXD decides', () => {
    const said = parseIndex(Buffer.from(index(evil)), true);
    assert.throws(() => judgeOf(said, { instance: 'c1' }), {
      code: 'forbidden',
      message: /security\.privileged.*gateway\.restrictedRestores/,
    });
    judgeOf(said, { instance: 'c1' }, { restricted: true, profiles: [] });
    const snapshot = `${index()}  snapshots:\n  - config: {raw.lxc: x}\n`;
    assert.throws(() => judgeOf(parseIndex(Buffer.from(snapshot)), { instance: 'c1' }), { message: /raw\.lxc/ });
    const optimized = parseIndex(Buffer.from(index().replace('optimized: false', 'optimized: true')));
    assert.throws(() => judgeOf(optimized, { instance: 'c1' }), { code: 'forbidden', message: /optimized/ });
  });

  const good = [{ name: 'backup/container/backup.yaml', text: configFile() }];
  const other = { name: 'other', text: configFile(evil) };
  const root = 'backup/container/rootfs';
  const linked = (name: string, target: string) => ({
    ...{ name, type: '1' },
    change: (header: Buffer) => void header.write(target, 157),
  });
  const hidden: [how: string, entries: Parameters<typeof entriesOf>[0]][] = [
    ['in backup.yaml', [{ name: 'backup/container/backup.yaml', text: configFile(evil) }]],
    ['under a name with ./', [{ name: './backup//container/./backup.yaml', text: configFile(evil) }]],
    ['under a long name of GNU', [{ name: 'x', longName: 'backup/container/backup.yaml', text: configFile(evil) }]],
    [
      'under a name in a pax record',
      [{ name: 'x', pax: { path: 'backup/container/backup.yaml' }, text: configFile(evil) }],
    ],
    [
      'in a second backup.yaml',
      [
        { name: 'backup/container/backup.yaml', text: configFile() },
        { name: 'backup/container/backup.yaml', text: configFile(evil) },
      ],
    ],
    ['behind a link', [{ name: 'backup/container/backup.yaml', type: '2' }]],
    ['through a linked directory', [{ name: 'backup/container/rootfs', type: '2' }]],
    ['through ..', [{ name: 'backup/container/rootfs/../backup.yaml', text: configFile(evil) }]],
    ['in a second index', [{ name: 'backup/index.yaml', text: index(evil) }]],
    ['nowhere', []],
    [
      "under a name of GNU's, which has no prefix",
      [
        { name: 'backup/container/backup.yaml', text: configFile() },
        { name: 'backup/container/backup.yaml', text: configFile(evil), change: (header) => header.write('x', 345) },
      ],
    ],
    [
      'in a global pax header',
      [...good, { name: 'g', type: 'g', text: '37 path=backup/container/backup.yaml\n' }, other],
    ],
    [
      'in a pax header of Solaris',
      [...good, { name: 'X', type: 'X', text: '37 path=backup/container/backup.yaml\n' }, other],
    ],
    ['in a pax header that some read', [...good, { ...other, rawPax: ' 38 path=backup/container/backup.yaml\n' }]],
    ['behind zeros that some read', [...good, { ...other, rawPax: '038 path=backup/container/backup.yaml\n' }]],
    ['behind a blank that some read', [...good, { ...other, rawPax: '38  path=backup/container/backup.yaml\n' }]],
    ['under a size in hexadecimal', [...good, { ...other, pax: { size: '0x10' } }]],
    ['under two sizes', [...good, { ...other, pax: { size: '0' } }]],
    ['under a size that is no octal', [...good, { ...other, change: (header) => header.write('1x', 124) }]],
    [
      'behind a directory with data',
      [...good, { name: 'backup/container/d', type: '5', change: (header) => header.write('00000001000\0', 124) }],
    ],
    ['in the rest of a file of another volume', [...good, { ...other, type: 'M' }]],
    ['in a file system of its own', [...good, { name: 'backup/container.bin' }]],
    ['in that of a snapshot', [...good, { name: 'backup/snapshots/first.bin' }]],
    ['in that of a virtual machine', [...good, { ...other, name: 'x', longName: 'backup/virtual-machine-config.bin' }]],
    ['behind a hard link in its root', [...good, linked(`${root}/x`, own)]],
    ['behind a hard link with a long target', [...good, { ...linked(`${root}/x`, `${root}/y`), longLink: own }]],
    [
      'behind a hard link with a target in pax',
      [...good, { ...linked(`${root}/x`, `${root}/y`), pax: { linkpath: own } }],
    ],
    ['behind a hard link with ..', [...good, linked(`${root}/x`, `${root}/../backup.yaml`)]],
    ["behind a hard link into a snapshot's root", [...good, linked(`${root}/x`, 'backup/snapshots/a/rootfs/x')]],
    [
      'behind a link for a template',
      [...good, { ...linked('backup/container/templates/x', '/etc/shadow'), type: '2' }],
    ],
    ['behind a device for a template', [...good, { name: 'backup/container/templates/x', type: '3' }]],
    ['behind a NUL in a name', [...good, { ...other, pax: { path: 'backup/container/backup.yaml\0zz' } }]],
    ['behind a NUL in a name of a sparse file', [...good, { ...other, pax: { 'GNU.sparse.name': `${own}\0x` } }]],
    ['behind a NUL in a key', [...good, { ...other, pax: { 'path\0': own } }]],
  ];
  for (const [how, entries] of hidden)
    it(`is refused where the rest is hidden ${how}`, async () => {
      assert.match(String(await judged(entries)), /^forbidden: .*gateway\.restrictedRestores/);
      assert.match(
        String(await judged(entries, { restricted: true, profiles: [] })),
        /^forbidden: /,
        'LXD looks into the index',
      );
    });

  it('is never taken with another backup.yaml than the one that GNU tar unpacks, however it is made', async () => {
    const runs = Number(process.env.LXSTOW_LAB_FUZZ_RUNS ?? 60);
    let taken = 0;
    await fc.assert(
      fc.asyncProperty(anyEntries, fc.integer({ min: 1, max: 4096 }), async (entries, size) => {
        const files = new ConfigFiles((why) => new LxstowError('forbidden', why));
        const scanner = new TarScanner('the archive', files.onEntry);
        const named = entries.map((each, index) => ({ text: `file ${index}`, ...each }));
        const tar = await restorable(entriesOf(named), size);
        try {
          scanner.push(tar);
          scanner.finish();
        } catch (error) {
          assert.ok(error instanceof LxstowError, String(error));
          return;
        }
        if (!files.found) return;
        const made = await unpacked(await restorable(tar, 4097 - size));
        // LXD makes nothing of what it does not find.
        if (made === undefined) return;
        taken += 1;
        assert.equal(made, files.found.toString());
      }),
      {
        numRuns: runs,
        examples: [
          [[{ ...file, name: own }], 1000],
          [[description, file], 1000],
        ],
      },
    );
    assert.ok(taken > 0);
  });

  const ambiguous: [what: string, text: string][] = [
    ['a tag', 'a: !!binary cmF3'],
    ['a key with a tag', '!!binary cmF3Lmx4Yw==: x'],
    ['a merge key', 'container: {<<: {config: {raw.lxc: x}}}'],
    ['a key twice', 'container: {}\ncontainer: {}'],
    ['an alias', 'a: &x {}\nb: *x'],
    ['an end of a line of YAML 1.1', '# \u2028container: {config: {raw.lxc: x}}'],
    ['a lone carriage return', '# \rcontainer: {config: {raw.lxc: x}}'],
    ['a second document', 'a: b\n---\ncontainer: {}'],
    ['a directive', '%FOO bar\n---\ncontainer: {}'],
    ['a byte order mark', '\ufeffcontainer: {}'],
    ['a control character', 'container: {config: {a: "\0"}}'],
    ['nothing of an instance', 'other: {}'],
    ['a list for an instance', 'container: []'],
    ['a list for a config', 'container: {config: [raw.lxc]}'],
    ['a mapping for a value', 'container: {config: {raw.lxc: {}}}'],
    ['a word for a device', 'container: {devices: {d: disk}}'],
  ];
  for (const [what, text] of ambiguous)
    it(`is refused for YAML with ${what}, which LXD may read otherwise`, () =>
      assert.throws(() => parseConfigFile(Buffer.from(text)), { code: 'bad-request' }));

  it('quotes nothing of a file that is no YAML, for secrets may be in it', () => {
    const text = Buffer.from('container:\n  config:\n    environment.TOKEN: s3kr1t\n  - : "s3kr1t\n');
    for (const read of [() => parseConfigFile(text), () => parseIndex(text), () => parseIndex(text, true)])
      assert.throws(read, ({ message, cause, stack }: Error) => {
        assert.doesNotMatch(`${message} ${cause} ${stack}`, /s3kr1t|TOKEN/);
        return true;
      });
    assert.throws(() => parseIndex(text), { message: /is not YAML: [A-Z_]+ at line 4$/ });
  });

  const encodings: [name: string, bytes: Buffer][] = [
    ['UTF-16', Buffer.from(`\ufeff${configFile(evil)}`, 'utf16le')],
    ['UTF-16, the other way', Buffer.from(`\ufeff${configFile(evil)}`, 'utf16le').swap16()],
    ['bytes that are no UTF-8', Buffer.from(configFile('config: {a: \xff}'), 'latin1')],
  ];
  for (const [name, bytes] of encodings)
    it(`is refused in ${name}`, () => {
      assert.throws(() => parseConfigFile(bytes), { code: 'bad-request', message: /another encoding than UTF-8/ });
      const text = Buffer.concat([Buffer.from(`${index()}# `), bytes]);
      assert.throws(() => parseIndex(text, true), { code: 'bad-request', message: /another encoding than UTF-8/ });
    });

  it('of other clients is as it was', () => {
    new TarScanner('it').push(tarOf('backup/../x', 'y'));
    assert.equal(parseIndex(Buffer.from('name: c1\nname: c2')).name, 'c2');
  });
});

describe('a restore over NATS', () => {
  const address = { remote: 'local', project: 'default', instance: 'c1' };
  const source = { ...address, instance: 'c2' };

  it('may bring everything where its subject says so, and only a restore', () => {
    for (const from of [address, source]) {
      const subject = jobSubject('restore', address, from, { unrestricted: true });
      assert.equal(subject, `${jobSubject('restore', address, from)}.unrestricted`);
      assert.equal(parseJobSubject(subject)?.unrestricted, true);
      const data = Buffer.from('{"backup":"b.tar"}');
      assert.equal(parseJob({ subject, data }).unrestricted, true);
      assert.equal(parseJob({ subject: jobSubject('restore', address, from), data }).unrestricted, undefined);
    }
    assert.equal(parseJobSubject('lxstow.jobs.local.backup.default.c1.unrestricted'), undefined);
    const own = jobSubject('restore', { ...address, instance: 'unrestricted' });
    assert.deepEqual(parseJobSubject(own), { ...address, instance: 'unrestricted', kind: 'restore' });
  });

  it('cannot say so in its body', () => {
    const data = Buffer.from('{"backup":"b.tar","unrestricted":true}');
    assert.throws(() => parseJob({ subject: jobSubject('restore', address), data }), { code: 'bad-message' });
  });
});

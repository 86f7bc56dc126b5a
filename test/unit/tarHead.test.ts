import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { fileEntry, readEntry, TarScanner } from '../../services/archive/tar/tar.ts';
import { TarHead } from '../../services/archive/tar/tarHead.ts';
import { entriesOf } from '../lab/tar.ts';

/** As Go writes them: a mapping in a mapping two spaces deeper, a list as deep as its key. */
const config = `container:
  config:
    user.user-data: |2-
        indented
      text: "1e3"

    volatile.uuid: 0005
  profiles:
  - default
pool:
  name: bt
`;
const index = (more = '', body = config) =>
  `name: c1\nbackend: btrfs\npool: bt\nsnapshots:\n- first\n${more}type: container\nconfig:\n${body.replace(/^(?=.)/gm, '  ')}`;
const end = Buffer.alloc(1024);

const tarOf = (text: string, ...names: string[]) =>
  Buffer.concat([
    fileEntry('backup/index.yaml', Buffer.from(text)),
    ...names.map((name) => fileEntry(name, Buffer.from(name.endsWith('/') ? '' : `of ${name}`))),
    end,
  ]);

/** What comes out of it, in chunks of the given sizes whose memory is used again. */
function through(tar: Buffer, sizes: number[], judge: (format: { version: number }) => void = () => undefined): Buffer {
  const head = new TarHead(judge);
  const out: Buffer[] = [];
  for (let at = 0, i = 0; at < tar.length; i++) {
    const chunk = Buffer.from(tar.subarray(at, at + (sizes[i % sizes.length] ?? 1)));
    at += chunk.length;
    out.push(...head.push(chunk).map((piece) => Buffer.from(piece)));
    chunk.fill(0xff);
  }
  return Buffer.concat([...out, ...head.rest()]);
}

const sizes = fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 5 });

describe('the head of a tar', () => {
  const root = ['backup/container/', 'backup/container/metadata.yaml', 'backup/container/rootfs/'];
  const old = ['backup/container/', 'backup/container/backup.yaml', 'backup/container/metadata.yaml'];
  const machine = ['backup/virtual-machine/', 'backup/virtual-machine/agent.crt', 'backup/virtual-machine/templates/'];

  for (const [what, names, file] of [
    ['a container', root, 'backup/container/backup.yaml'],
    [
      'one with a snapshot',
      ['backup/snapshots/first/', 'backup/snapshots/first/metadata.yaml', ...root],
      'backup/container/backup.yaml',
    ],
    ['a virtual machine', machine, 'backup/virtual-machine/backup.yaml'],
    [
      'one that never ran',
      ['backup/virtual-machine/', 'backup/virtual-machine.img'],
      'backup/virtual-machine/backup.yaml',
    ],
    [
      'one with a snapshot of its disk',
      ['backup/virtual-machine-snapshots/first/', 'backup/virtual-machine-snapshots/first.img', ...machine],
      'backup/virtual-machine/backup.yaml',
    ],
  ] as const) {
    it(`gets the backup.yaml that it lacks behind its index: ${what}`, () => {
      const tar = tarOf(index(), ...names);
      const [first] = [fileEntry('backup/index.yaml', Buffer.from(index()))];
      const whole = Buffer.concat([first, fileEntry(file, Buffer.from(config)), tar.subarray(first.length)]);
      fc.assert(fc.property(sizes, (cut) => assert.deepEqual(through(tar, cut), whole)));
    });
  }

  for (const [what, tar] of [
    ['has its backup.yaml', tarOf(index(), ...old)],
    [
      'has one in its snapshot',
      tarOf(index(), 'backup/snapshots/first/', 'backup/snapshots/first/backup.yaml', ...old),
    ],
    ['is optimized', tarOf(index('optimized: true\n'), 'backup/container.bin')],
    ['has an index that another program wrote', tarOf(`name: c1\nconfig: {container: {}}\n`, ...root)],
    [
      'hides a config in a value',
      tarOf(`name: "c1\nconfig:\n  container: {}\n"\n'config': {container: {}}\n`, ...root),
    ],
    ['has two configs', tarOf(`${index()}config:\n  container: {}\n`, ...root)],
    [
      'has its backup.yaml before the index',
      Buffer.concat([fileEntry('backup/container/backup.yaml', Buffer.from(config)), tarOf(index(), ...root)]),
    ],
    ['has no index', tarOf('').subarray(512)],
    ['ends early', tarOf(index(), ...root).subarray(0, 700)],
    ['is nothing of LXD’s', Buffer.alloc(5000, 'x')],
  ] as const) {
    it(`is left as it is where the archive ${what}`, () => {
      fc.assert(fc.property(sizes, (cut) => assert.deepEqual(through(tar, cut), tar)));
    });
  }

  it('is judged by its index before anything is sent', () => {
    const seen: number[] = [];
    const judge = ({ version }: { version: number }) => void seen.push(version);
    through(tarOf(index(), ...old), [1000], judge);
    through(tarOf(index('', config.replace('container:', 'version: 2\ninstance:')), ...old), [1000], judge);
    assert.deepEqual(seen, [1, 2]);
    const head = new TarHead(() => {
      throw new Error('refused');
    });
    assert.throws(() => head.push(tarOf(index(), ...old)), /refused/);
  });

  it('is the same however the tar is cut into chunks, also where it is longer than what is held back', () => {
    const held = 2 * 1024 * 1024;
    const start = fileEntry('backup/index.yaml', Buffer.from(index()));
    const volume = Buffer.concat([...root.map((name) => fileEntry(name, Buffer.alloc(0))), end]);
    for (let over = -3072; over <= 1024; over += 512) {
      const filling = fileEntry('padding', Buffer.alloc(held + over - start.length - 512));
      const tar = Buffer.concat([start, filling, volume]);
      const whole = through(tar, [tar.length]);
      for (const size of [512, 65_536, held - 512, held])
        assert.ok(through(tar, [size]).equals(whole), `${over}, ${size}`);
    }
  });

  it('is looked at once, however little comes at a time', () => {
    const text = index('', `${'a: b\n'.repeat(150_000)}${config}`);
    const tar = Buffer.concat([fileEntry('backup/index.yaml', Buffer.from(text)), fileEntry('x', Buffer.alloc(9_000))]);
    const head = new TarHead(() => undefined);
    const { user: before } = process.cpuUsage();
    for (let at = 0; at < tar.length; at += 100) head.push(tar.subarray(at, at + 100));
    const ms = (process.cpuUsage().user - before) / 1000;
    assert.ok(ms < 2000, `${ms} ms`);
  });
});

describe('a size that is no number', () => {
  for (const size of ['-0000001000', '0000000x000', '00000 00000', '-'])
    it(`is no header: ${size}`, () => {
      const tar = entriesOf([{ name: 'x', change: (header) => header.write(`${size}\0`, 124) }]);
      assert.equal(readEntry(tar.subarray(0, 512)), undefined);
      assert.throws(() => new TarScanner('it').push(tar), { code: 'archive-truncated', message: /a size that is no/ });
    });

  it('is none in a pax header either', () => {
    for (const size of ['-512', 'x', '0x10']) {
      const tar = entriesOf([{ name: 'x', pax: { size } }]);
      assert.throws(() => new TarScanner('it').push(tar), { code: 'archive-truncated' }, size);
    }
  });
});

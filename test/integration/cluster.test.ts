/** A cluster of two LXDs: its members are one host to lxstow, and what is replaced stays on its member. */
import assert from 'node:assert/strict';
import { after, before, describe, it, type TestContext } from 'node:test';
import { addMember, type Member } from '../lab/cluster.ts';
import type { LabLxd } from '../lab/lxd.ts';
import { lxstow } from '../lab/lxstow.ts';
import { assertSame, openStack, type Stack, succeeded } from './stack.ts';

describe('a cluster', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let lxd: LabLxd | undefined;
  let member: Member;
  before(async () => {
    stack = await openStack('members');
    const own = stack.lab.lxd;
    if (own?.engine !== 'lxd' || process.env.LXSTOW_LAB_LXD_SOCKET) return;
    member = await addMember(own, 'members', () => undefined);
    lxd = own;
  });
  after(async () => {
    // They are not there if a test has failed.
    await Promise.allSettled(['web', 'copy'].map((name) => lxd?.lxc(['delete', '--force', name])));
    await member?.[Symbol.asyncDispose]();
    await stack?.[Symbol.asyncDispose]();
  });

  const test = (name: string, run: (own: LabLxd) => Promise<void>) =>
    it(name, (context: TestContext) =>
      lxd ? run(lxd) : context.skip('only the machine’s own LXD is made a cluster, and only one of the lab’s own'),
    );
  const restore = (backup: string, body: object) =>
    stack.stow.request('POST', `/1.0/instances/web/backups/${backup}`, { body });
  const placeOf = async (own: LabLxd, instance: string) => {
    const { location, status } = JSON.parse(await own.lxc(['query', `/1.0/instances/${instance}`]));
    return `${location} ${status}`;
  };

  test('backs up an instance of another member, and replaces it there', async (own) => {
    await own.lxc(['init', 'bb', 'web', '--target', member.names.second, '--config', 'security.privileged=true']);
    await own.lxc(['start', 'web']);
    const files = await member.fingerprint('web');
    const backup = await stack.backup('web');
    await own.lxc(['exec', 'web', '--', 'touch', '/made-later']);
    const answer = await restore(backup, { replace: true });
    const { metadata } = await succeeded(stack.stow, answer);
    assert.equal(metadata.warnings, undefined);
    assert.equal(await placeOf(own, 'web'), `${member.names.second} Running`);
    assertSame(await member.fingerprint('web'), files);
  });

  test('restores a new instance on the member that the worker asks', async (own) => {
    const backup = await stack.backup('web');
    await succeeded(stack.stow, await restore(backup, { name: 'copy' }));
    assert.equal(await placeOf(own, 'copy'), `${member.names.first} Stopped`);
    assertSame(await stack.fingerprint('copy'), await member.fingerprint('web'));
  });

  test('is tidy afterwards', async () => {
    await stack.assertNothingLeft();
    const said = await lxstow(['--config', stack.stow.configFile, 'janitor'], {
      LXSTOW_WORKER_JANITOR_GRACE_HOURS: '0',
    });
    assert.match(said, /nothing is left over/);
  });
});

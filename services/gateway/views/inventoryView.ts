/** Asks the workers of several hosts in parallel what their LXD has. */
import type { Request, Response } from 'express';
import { knownRemote } from '../../contract/config.ts';
import { asLxstowError, type LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { askInventory, type InventoryQuestion } from '../../hosts/hostInventory.ts';
import type { LxdObject } from '../../lxd/inventory.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { query } from '../http/requests.ts';
import { warn } from '../http/respond.ts';

/** The hosts of a request: the one that `?target=` names, or all, beginning with the default one. */
export function remotesOf(request: Request, { remotes, gateway }: Config): string[] {
  const known = Object.keys(remotes);
  const target = query(request, 'target', 'names.json#/$defs/remoteName');
  if (target !== undefined) return [knownRemote(target, known)];
  return [gateway.defaultRemote, ...known.filter((remote) => remote !== gateway.defaultRemote)];
}

interface Answers {
  /** By host, in the order in which they were asked. */
  found: Map<string, LxdObject[]>;
  /** Why the other hosts did not answer. */
  silent: Map<string, LxstowError>;
}

/** Asks all of them, and waits up to `gateway.inventoryTimeoutMs`. Hosts that do not answer are named in a `Warning` header and in the log. */
export async function askRemotes(
  { nats, config, log }: Pick<GatewayParts, 'nats' | 'config' | 'log'>,
  response: Response,
  remotes: string[],
  question: InventoryQuestion,
  ask = askInventory,
): Promise<Answers> {
  const answers: Answers = { found: new Map(), silent: new Map() };
  const settled = await Promise.allSettled(
    remotes.map((remote) => ask(nats, remote, question, config.gateway.inventoryTimeoutMs)),
  );
  for (const [index, answer] of settled.entries()) {
    const remote = remotes[index] as string;
    if (answer.status === 'fulfilled') answers.found.set(remote, answer.value);
    else answers.silent.set(remote, asLxstowError(answer.reason));
  }
  for (const [remote, error] of answers.silent) {
    log.warn('a host did not answer', { remote, error });
    warn(response, `host ${remote} is not in this answer: ${error.code}`);
  }
  return answers;
}

/** The same, but throws the first host's error if none answers. */
export async function askSome(...asked: Parameters<typeof askRemotes>): Promise<Answers['found']> {
  const { found, silent } = await askRemotes(...asked);
  const [error] = silent.values();
  if (found.size === 0 && error) throw error;
  return found;
}

/** An instance's path, with `project` and `target` where they are not the defaults. */
export function instancePath(
  { name, project, location }: { name: string; project: string; location: string },
  defaultRemote: string,
): string {
  const search = new URLSearchParams({
    ...(project !== 'default' && { project }),
    ...(location !== defaultRemote && { target: location }),
  });
  return `/1.0/instances/${name}${search.size > 0 ? `?${search}` : ''}`;
}

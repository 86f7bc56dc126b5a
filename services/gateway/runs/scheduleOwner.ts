/** Whether the client that owns a schedule may still have it. */
import type { Schedule } from '../../contract/schemas.ts';
import type { GatewayParts } from '../gatewayParts.ts';

/**
 * Why the owner may no longer have the schedule. Undefined while it may, or if only a certificate authority could say. Over NATS, permissions decide, which lxstow cannot see. An owner
 * that is not restricted acts for the whole system, so its schedule continues without it.
 */
export async function ownerTrouble(
  { trust, config }: Pick<GatewayParts, 'trust' | 'config'>,
  { requestor, restricted, definition }: Schedule,
): Promise<string | undefined> {
  const { protocol, username } = requestor ?? {};
  if (protocol !== 'tls' || !username) return undefined;
  const client = await trust.known(username);
  if (!client) {
    if (!restricted && config.gateway.trustCa !== undefined) return undefined;
    return `its owner, client ${username.slice(0, 12)}, is no longer trusted`;
  }
  if (!restricted) return undefined;
  if (client.role === 'viewer') return `its owner, ${client.name}, is only a viewer now`;
  const lost = definition.selector?.projects?.find((each) => client.restricted && !client.projects.includes(each));
  return lost === undefined ? undefined : `its owner, ${client.name}, may no longer use project ${lost}`;
}

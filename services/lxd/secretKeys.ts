/** Keys of an instance's configuration whose values are often secrets: viewers and publishers do not get to know them. */
const secrets = /^(environment\.|cloud-init\.|user\.(user-data|vendor-data|meta-data|network-config)$)/;

export function isSecretKey(key: string): boolean {
  return secrets.test(key);
}

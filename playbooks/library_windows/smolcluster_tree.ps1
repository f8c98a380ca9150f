#!powershell
# The module smolcluster_tree on a Windows PC: the same options and results as smolcluster_tree.py, which documents them.
# Ansible takes this file by itself where the shell is PowerShell. Nobody has run this on a real PC.

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell Ansible.ModuleUtils.Smolcluster

$spec = @{
    options = @{
        state = @{ type = 'str'; required = $true; choices = @('packed', 'opened', 'closed') }
        run_dir = @{ type = 'str'; required = $true }
        node = @{ type = 'str'; required = $true }
        checkpoints = @{ type = 'bool'; default = $false }
        files = @{ type = 'list'; elements = 'dict' }
        whole = @{ type = 'bool'; default = $false }
        keep = @{ type = 'bool'; default = $false }
        python = @{ type = 'str' }
    }
    required_if = @(
        , @('state', 'packed', @(, 'python'))
        , @('state', 'opened', @('files', 'python'))
        , @('state', 'closed', @('files', 'python'))
    )
}
$module = [Ansible.Basic.AnsibleModule]::Create($args, $spec)
Invoke-Smolcluster -Module $module -Command 'parcel'
$module.ExitJson()
